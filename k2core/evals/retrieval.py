"""Does a model use what is far back in its context? Two probes that need no tokenizer and no instructions.

Needle: random tokens are put at some depth of held-out text, and their beginning is repeated at the end. The model must
prefer the needle's last token over others that were drawn the same way; chance is 1 / `CANDIDATES`.

Copy gain: a held-out passage ends a row in which it has occurred before. The gain is how much lower its loss is than
with another passage in the first place. It is 0 for a model that does not look back, shows what is too weak to find
needles, and does not depend on how good the model is at late positions as such.

Shapes: B rows, T positions, S samples, C candidates, R rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

import numpy as np
import torch
from torch import Tensor

from k2core.data.rows.shards import TokenShards
from k2core.model.loss import token_log_probs
from k2core.storage import StorageError

NEEDLE = 8
"""Tokens of a needle; the last one is asked for."""
CANDIDATES = 16
DEPTHS = (0, 25, 50, 75, 100)
"""Where the needle is, in percent of the haystack."""
PASSAGE = 32
"""Tokens of a repeated passage; as many of other text precede its first occurrence."""
BATCH_TOKENS = 4096

Model = Callable[..., Tensor]


def needles_found(model: Model, shards: TokenShards, *, length: int, samples: int, seed: int) -> dict[int, int]:
    """How many of `samples` needles in rows of `length` tokens are found, by depth in percent.

    Args:
        model: (tokens_BT, wanted_BT=bool mask) → logits_MV at the wanted positions.

    Raises:
        StorageError: there is not enough held-out text for the haystack.
    """
    text, hay = _heldout(shards, length), length - 2 * NEEDLE + 1
    found = {}
    for depth in DEPTHS:
        random = Random(f"{seed}/needle/{length}/{depth}")
        rows, choices = [], []
        for _ in range(samples):
            around = _slice(text, hay, random)
            drawn = random.sample([t for t in range(shards.vocab_size) if t != shards.eos_id], NEEDLE + CANDIDATES - 1)
            needle, others, at = drawn[:NEEDLE], drawn[NEEDLE:], hay * depth // 100
            rows.append(around[:at] + needle + around[at:] + needle[:-1])
            choices.append([needle[-1], *others])
        logits_SC = _logits(model, rows, [length - 1])[:, 0].gather(1, torch.tensor(choices))
        found[depth] = int((logits_SC[:, 0] > logits_SC[:, 1:].amax(dim=1)).sum())
    return found


def distance(length: int) -> int:
    """Tokens from the passage's first occurrence to its second in a row of `length` tokens."""
    return length - 2 * PASSAGE


def copy_gains(
    model: Model, shards: TokenShards, *, length: int, samples: int, seed: int, random_tokens: bool = False
) -> list[float]:
    """The copy gain of each of `samples` passages in rows of `length` tokens, in nats per token.

    Args:
        random_tokens: the passages are drawn token by token, so that nothing but copying can foresee them.

    Other arguments and errors as for `needles_found`.
    """
    text, random = _heldout(shards, length), Random(f"{seed}/copy/{length}")
    rows = []

    def drawn() -> list[int]:
        if not random_tokens:
            return _slice(text, PASSAGE, random)
        return random.sample([token for token in range(shards.vocab_size) if token != shards.eos_id], PASSAGE)

    for _ in range(samples):
        passage, foil = drawn(), drawn()
        other = _slice(text, length - 2 * PASSAGE, random)
        rows += [other[:PASSAGE] + first + other[PASSAGE:] + passage for first in (passage, foil)]
    wanted = range(length - PASSAGE - 1, length - 1)
    nats_RT = -token_log_probs(_logits(model, rows, list(wanted)), torch.tensor(rows)[:, -PASSAGE:]).double()
    return (nats_RT[1::2] - nats_RT[0::2]).mean(dim=1).tolist()


@torch.no_grad()
def _logits(model: Model, rows: Sequence[list[int]], wanted: list[int]) -> Tensor:
    """Logits [rows, wanted, V] at the positions `wanted` (ascending) of rows of equal length."""
    length, parts = len(rows[0]), []
    step = max(1, BATCH_TOKENS // length)
    for first in range(0, len(rows), step):
        tokens_BT = torch.tensor(rows[first : first + step])
        wanted_BT = torch.zeros(tokens_BT.shape, dtype=torch.bool)
        wanted_BT[:, wanted] = True
        parts.append(model(tokens_BT, wanted_BT=wanted_BT).unflatten(0, (len(tokens_BT), len(wanted))))
    return torch.cat(parts)


def _heldout(shards: TokenShards, length: int) -> np.ndarray:
    """All held-out tokens of all domains, more than `length` of them."""
    text = np.concatenate([shards.tokens("heldout", domain) for domain in shards.domains("heldout")])
    if len(text) <= length:
        raise StorageError(
            f"{shards.folder}: {len(text)} held-out tokens cannot fill a row of {length}; "
            "hold out more text (curate.heldout_fraction, tokenize.max_heldout_tokens) or lower extend_context.lengths"
        )
    return text


def _slice(text: np.ndarray, length: int, random: Random) -> list[int]:
    start = random.randrange(len(text) - length)
    return text[start : start + length].tolist()
