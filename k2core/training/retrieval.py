"""A needle in a haystack for models without instructions: does a passage come back when its beginning is repeated?

A needle of random tokens stands at some depth of held-out text; at the end its beginning is repeated. The model must
prefer the needle's last token over others that were drawn the same way. Chance is 1 / `CANDIDATES`. Thin: it tests
copying from afar, not reading; the needle is in tokens, so no tokenizer is needed.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import torch

from k2core.corpus.shards import Shards
from k2core.storage import StorageError

NEEDLE = 8
"""Tokens of a needle; the last one is asked for."""
CANDIDATES = 16
DEPTHS = (0, 25, 50, 75, 100)
"""Where the needle stands, in percent of the haystack."""


@torch.no_grad()
def needle_accuracy(
    model: Callable[..., Any], shards: Shards, *, context: int, samples: int, seed: int
) -> dict[int, float]:
    """Share of `samples` prompts of `context` tokens whose needle is found, by depth in percent.

    Raises:
        StorageError: there is not enough held-out text for the haystack.
    """
    haystack = np.concatenate([shards.tokens("heldout", domain) for domain in shards.domains("heldout")])
    hay = context - 2 * NEEDLE + 1
    if hay < 1 or len(haystack) <= hay:
        raise StorageError(f"{shards.folder}: {len(haystack)} held-out tokens cannot hide a needle in {context}")
    accuracy = {}
    for depth in DEPTHS:
        random = Random(f"{seed}/needle/{context}/{depth}")
        rows, choices = [], []
        for _ in range(samples):
            start = random.randrange(len(haystack) - hay)
            text = haystack[start : start + hay].tolist()
            drawn = random.sample([t for t in range(shards.vocab_size) if t != shards.eos_id], NEEDLE + CANDIDATES - 1)
            needle, others, at = drawn[:NEEDLE], drawn[NEEDLE:], hay * depth // 100
            rows.append(text[:at] + needle + text[at:] + needle[:-1])
            choices.append([needle[-1], *others])
        found = 0
        step = max(1, 4096 // context)
        for first in range(0, samples, step):
            logits_BV = model(torch.tensor(rows[first : first + step]))[:, -1]
            chosen_BC = logits_BV.gather(1, torch.tensor(choices[first : first + step]))
            found += int((chosen_BC.argmax(dim=1) == 0).sum())
        accuracy[depth] = found / samples
    return accuracy
