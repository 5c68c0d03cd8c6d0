"""One completion token by token, for somebody who reads along.

Shapes: B = 1 sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

import torch

from k2core.inference.constraint import Constraint
from k2core.inference.decoders import decoder_for
from k2core.inference.prefill import prefill
from k2core.inference.sampler import step
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
            tokens_B, _ = step(decoder, tokens_B, cache, [random], [state], temperature)
        token = int(tokens_B)
        yield token
        if token in stop_ids:
            return
        if state is not None:
            state.advance(token)
