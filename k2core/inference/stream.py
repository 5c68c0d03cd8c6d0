"""One completion token by token, for somebody who reads along.

Shapes: B = 1 sequence, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

import torch

from k2core import ops
from k2core.inference.constraint import Constraint, barred
from k2core.inference.decoders import decoder_for
from k2core.inference.prefill import prefill
from k2core.model.lowered import lowered
from k2core.model.transformer import Transformer


def stream(
    model: Transformer, prompt: Sequence[int], *, max_new_tokens: int, temperature: float, stop_ids: set[int],
    seed: str, constraint: Constraint | None = None,
) -> Iterator[int]:  # fmt: skip
    """The tokens that `generate` gives this prompt with a stream named `seed`, each as soon as it is there.

    Args:
        seed: name of the random stream, `SEED/NAME` for `generate`'s seed and stream.
        constraint: what the completion is held to.
    """
    random, state, model = Random(seed), constraint.begin() if constraint else None, lowered(model)
    with torch.inference_mode():
        tokens_B, cache = prefill(model, [tuple(prompt)], max_new_tokens)
        decoder = decoder_for(model)
    for _ in range(max_new_tokens):
        with torch.inference_mode():
            logits_BV = decoder.decode(tokens_B, cache)
            if state is not None:
                logits_BV.masked_fill_(barred([state], logits_BV.shape[1]).to(logits_BV.device), -torch.inf)
            drawn_B = torch.tensor([1 - random.random()], dtype=torch.float32, device=logits_BV.device)
            tokens_B, _ = ops.sample(logits_BV, temperature, drawn_B)
        token = int(tokens_B)
        yield token
        if token in stop_ids:
            return
        if state is not None:
            state.advance(token)
