"""Batched generation over the key-value cache, for RL rollouts and evaluation.

Prompts are sorted by length into batches; equal prompts of a batch are read once. Each prompt has a random stream of
its own, and a token is drawn by inverting the cumulative distribution at one number of that stream. So the other
prompts of a batch do not matter (up to the rounding of differently shaped matrix products).

A prompt may have a constraint: tokens that it does not allow get probability 0, and the rest is as without it.

Shapes: B sequences, T positions, V vocabulary, U different prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

import torch
from torch import Tensor

from k2core import ops
from k2core.inference.constraint import Constraint, State, mask
from k2core.inference.decoders import Decoder, decoder_for
from k2core.model.cache import KeyValueCache
from k2core.model.transformer import Transformer

COMPACT_BELOW = 0.75
"""Finished sequences leave the batch once fewer than this share of it is unfinished: copying the cache costs."""


@dataclass
class Completion:
    """What followed a prompt.

    Attributes:
        tokens: sampled ids; a stop token is the last one.
        log_probs: of each token in nats, at the sampling temperature (at temperature 1 for greedy decoding), among the
            tokens that the prompt's constraint allows: 0 where it leaves no choice.
        finish_reason: "stop" after a stop token, "length" when the budget ended first.
    """

    tokens: list[int]
    log_probs: list[float]
    finish_reason: Literal["stop", "length"]


@torch.inference_mode()
def generate(
    model: Transformer, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, temperature: float,
    stop_ids: set[int], seed: int, batch_size: int = 64, constraints: Sequence[Constraint | None] | None = None,
    streams: Sequence[str] | None = None,
) -> list[Completion]:  # fmt: skip
    """A completion of every prompt, in order; each depends on (model, prompt, its constraint, its stream, seed) alone.

    Args:
        temperature: 0 is greedy.
        constraints: what each prompt's completion is held to (None: nothing).
        streams: names of the prompts' random streams; without them, their indices.

    Raises:
        ValueError: an empty prompt, no token to generate, or a negative temperature.
    """
    if temperature < 0 or max_new_tokens < 1:
        raise ValueError(f"cannot sample {max_new_tokens} tokens at temperature {temperature}")
    empty = [index for index, prompt in enumerate(prompts) if not len(prompt)]
    if empty:
        raise ValueError(f"prompt {empty[0]} is empty; a model needs at least one token to go on from")
    completions = [Completion([], [], "length") for _ in prompts]
    decoder = decoder_for(model)
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        drawn = [Random(f"{seed}/{streams[index] if streams else index}") for index in indices]
        tokens_B, cache = prefill(model, [tuple(prompts[index]) for index in indices], max_new_tokens)
        rows = [completions[index] for index in indices]
        held = [constraints[index] if constraints else None for index in indices]
        states = [None if constraint is None else constraint.begin() for constraint in held]
        _decode(decoder, tokens_B, cache, rows, drawn, states, max_new_tokens, temperature, stop_ids)
    return completions


def prefill(model: Transformer, prompts: list[tuple[int, ...]], room: int) -> tuple[Tensor, KeyValueCache]:
    """Each prompt's last token, [B], and the cache of all before it; equal ones are computed once."""
    unique = list(dict.fromkeys(prompt[:-1] for prompt in prompts))
    device = model.device
    width = max(map(len, unique))
    tokens_UT = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in unique], device=device)
    cache = KeyValueCache(model.config, len(unique), width + room, like=model.lm_head.weight)
    if width:
        model.prefill(tokens_UT, cache)  # causal: the padding on the right is never seen
    cache.lengths_B = torch.tensor([len(prompt) for prompt in unique], device=device)
    place = {prompt: number for number, prompt in enumerate(unique)}
    cache.select(torch.tensor([place[prompt[:-1]] for prompt in prompts], device=device))
    return torch.tensor([prompt[-1] for prompt in prompts], device=device), cache


def _decode(
    decoder: Decoder, tokens_B: Tensor, cache: KeyValueCache, rows: list[Completion],
    streams: list[Random], states: list[State | None], max_new_tokens: int, temperature: float, stop_ids: set[int],
) -> None:  # fmt: skip
    """Extend `rows`, whose sequences end in `tokens_B`, until each has stopped or used its budget."""
    going = [True] * len(rows)
    for _ in range(max_new_tokens):
        logits_BV = decoder.decode(tokens_B, cache)
        if any(state is not None for state in states):
            mask(logits_BV, states)
        drawn = [1 - stream.random() for stream in streams]
        drawn_B = torch.tensor(drawn, dtype=torch.float32, device=logits_BV.device)
        tokens_B, log_probs_B = ops.sample(logits_BV, temperature, drawn_B)
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
