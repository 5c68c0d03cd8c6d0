"""Batched generation over the key-value cache, for RL rollouts and evaluation.

Prompts are sorted by length into batches; what prompts of a batch begin with is read once. Each prompt has a random
stream of its own, and a token is drawn by inverting the cumulative distribution at one number of that stream. So the
other prompts of a batch do not matter (up to the rounding of differently shaped matrix products).

A prompt may have a constraint: tokens that it does not allow get probability 0, and the rest is as without it.

On a GPU `continuous.py` decodes: the same tokens up to rounding, without batches.

Shapes: B sequences, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor

from k2core import ops
from k2core.inference.completion import Completion
from k2core.inference.constraint import Constraint, State, barred
from k2core.inference.continuous import Row, continuous
from k2core.inference.decoders import Decoder, decoder_for
from k2core.inference.prefill import prefill
from k2core.model.cache import KeyValueCache
from k2core.model.lowered import lowered
from k2core.model.transformer import Transformer

COMPACT_BELOW = 0.75
"""Finished sequences leave the batch once fewer than this share of it is unfinished: copying the cache costs."""


@torch.inference_mode()
def generate(
    model: Transformer, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, temperature: float,
    stop_ids: set[int], seed: int = 0, batch_size: int = 64, constraints: Sequence[Constraint | None] | None = None,
    streams: Sequence[str] | None = None, begun: Sequence[int] | None = None,
) -> list[Completion]:  # fmt: skip
    """A completion of every prompt, in order; each depends on (model, prompt, its constraint, its stream) alone.

    Args:
        temperature: 0 is greedy.
        constraints: what each prompt's completion is held to (None: nothing).
        streams: names of the prompts' random streams; without them, `SEED/INDEX`.
        begun: tokens at the end of each prompt that its completion has already: stream and constraint are past them.

    Raises:
        ValueError: an empty prompt, no token to generate, or a negative temperature.
    """
    if temperature < 0 or max_new_tokens < 1:
        raise ValueError(f"cannot sample {max_new_tokens} tokens at temperature {temperature}")
    empty = [index for index, prompt in enumerate(prompts) if not len(prompt)]
    if empty:
        raise ValueError(f"prompt {empty[0]} is empty; a model needs at least one token to go on from")
    completions, model = [Completion([], [], "length") for _ in prompts], lowered(model)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    drawn = [Random(streams[index] if streams else f"{seed}/{index}") for index in range(len(prompts))]
    held = [None if held_to is None else held_to.begin() for held_to in constraints or [None] * len(prompts)]
    for prompt, stream, state, count in zip(prompts, drawn, held, begun or (), strict=begun is not None):
        for token in prompt[len(prompt) - count :]:
            stream.random()
            if state is not None:
                state.advance(token)
    if model.device.type == "cuda":
        waiting = [Row(tuple(prompts[index]), completions[index], drawn[index], held[index]) for index in order]
        continuous(model, waiting, max_new_tokens, temperature, stop_ids, batch_size)
        return completions
    decoder = decoder_for(model)
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        tokens_B, cache = prefill(model, [tuple(prompts[index]) for index in indices], max_new_tokens)
        rows, states = [completions[index] for index in indices], [held[index] for index in indices]
        own = [drawn[index] for index in indices]
        _decode(decoder, tokens_B, cache, rows, own, states, max_new_tokens, temperature, stop_ids)
    return completions


def step(
    decoder: Decoder, tokens_B: Tensor, cache: KeyValueCache, streams: Sequence[Random],
    states: Sequence[State | None], temperature: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The token after each of `tokens_B`, among those that `states` allow, and its log-probability, both [B]."""
    logits_BV = decoder.decode(tokens_B, cache)
    if any(state is not None for state in states):
        logits_BV.masked_fill_(barred(states, logits_BV.shape[1]).to(logits_BV.device), -torch.inf)
    drawn = [1 - stream.random() for stream in streams]
    drawn_B = torch.tensor(drawn, dtype=torch.float32, device=logits_BV.device)
    return ops.sample(logits_BV, temperature, drawn_B)


def _decode(
    decoder: Decoder, tokens_B: Tensor, cache: KeyValueCache, rows: list[Completion],
    streams: list[Random], states: list[State | None], max_new_tokens: int, temperature: float, stop_ids: set[int],
) -> None:  # fmt: skip
    """Extend `rows`, whose sequences end in `tokens_B`, until each has stopped or used its budget."""
    going = [True] * len(rows)
    for _ in range(max_new_tokens):
        tokens_B, log_probs_B = step(decoder, tokens_B, cache, streams, states, temperature)
        for i, (token, log_prob) in enumerate(zip(tokens_B.tolist(), log_probs_B.tolist(), strict=True)):
            if going[i]:
                rows[i].tokens.append(token)
                rows[i].log_probs.append(log_prob)
                if token in stop_ids:
                    rows[i].finish_reason, going[i], states[i] = "stop", False, None
                elif (state := states[i]) is not None:
                    state.advance(token)
        if not any(going):
            return
        if sum(going) < COMPACT_BELOW * len(going):
            kept = [i for i, goes_on in enumerate(going) if goes_on]
            rows, streams, going = [rows[i] for i in kept], [streams[i] for i in kept], [True] * len(kept)
            states = [states[i] for i in kept]
            keep = torch.tensor(kept, device=tokens_B.device)
            tokens_B = tokens_B[keep]
            cache.select(keep)
