"""Batched generation over the key-value cache, for RL rollouts and evaluation.

Prompts are sorted by length into batches; what prompts of a batch begin with is read once. Each prompt has a random
stream of its own, and a token is drawn by inverting the cumulative distribution at one number of that stream. So the
other prompts of a batch do not matter (up to the rounding of differently shaped matrix products).

A prompt may have a constraint: tokens that it does not allow get probability 0, and the rest is as without it.

On a GPU `continuous.py` decodes: the same tokens up to rounding, without batches.

Shapes: B sequences, V vocabulary, N tokens read, L layers with experts, K experts per token.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import torch
from torch import Tensor

from k2core import ops
from k2core.inference.completion import Completion, Ends
from k2core.inference.constraint import Constraint, State, barred
from k2core.inference.continuous import Row, continuous
from k2core.inference.decoders import Decoder, decoder_for
from k2core.inference.prefill import prefill, recorded
from k2core.model.cache import KeyValueCache
from k2core.model.lowered import lowered
from k2core.model.transformer import Transformer
from k2core.stage import StageError

COMPACT_BELOW = 0.75
"""Finished sequences leave the batch once fewer than this share of it is unfinished: copying the cache costs."""


@torch.inference_mode()
def generate(
    model: Transformer, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, temperature: float,
    stop_ids: set[int], seed: int, batch_size: int = 64, constraints: Sequence[Constraint | None] | None = None,
    streams: Sequence[str] | None = None, begun: Sequence[Completion] | None = None, now: Sequence[int] | None = None,
    repetition: int | None = None, record: bool = False,
) -> list[Completion]:  # fmt: skip
    """A completion of every prompt, in order; each depends on (model, prompt, its constraint, its stream, seed) alone.

    Args:
        temperature: 0 is greedy.
        constraints: what each prompt's completion is held to (None: nothing).
        streams: names of the prompts' random streams; without them, `seed` and their indices.
        begun: what there is of each completion already; it goes on there, as if it had never stopped.
        now: tokens that each gets in this call at most; with more to come it is then "paused".
        repetition: so many last tokens that only repeat one sequence end a completion ("length"); None: nothing does.
        record: whether completions have the experts that were chosen (`routes`), which is slower; not on a GPU.

    Raises:
        ValueError: an empty prompt, no token to generate, or a negative temperature.
    """
    if temperature < 0 or max_new_tokens < 1:
        raise ValueError(f"cannot sample {max_new_tokens} tokens at temperature {temperature}")
    empty = [index for index, prompt in enumerate(prompts) if not len(prompt)]
    if empty:
        raise ValueError(f"prompt {empty[0]} is empty; a model needs at least one token to go on from")
    model, ends = lowered(model), Ends(max_new_tokens, frozenset(stop_ids), repetition)
    rows = [
        _row(
            prompt,
            Completion([*begun[index].tokens], [*begun[index].log_probs], "length")
            if begun
            else Completion([], [], "length"),
            Random(streams[index] if streams else f"{seed}/{index}"),
            constraints[index] if constraints else None,
            min(now[index] if now else max_new_tokens, max_new_tokens),
        )
        for index, prompt in enumerate(prompts)
    ]
    order = sorted(rows, key=lambda row: len(row.prompt))
    if record and model.device.type == "cuda":
        raise StageError("rl.replay_routes: experts are not recorded on a GPU; set it to false")
    if model.device.type == "cuda":
        continuous(model, order, ends, temperature, batch_size)
    else:
        decoder = model if record else decoder_for(model)  # a packed one does not tell what its routers choose
        for start in range(0, len(order), batch_size):
            _decode(model, decoder, order[start : start + batch_size], ends, temperature, record)
    return [row.completion for row in rows]


def _row(
    prompt: Sequence[int], completion: Completion, stream: Random, constraint: Constraint | None, now: int
) -> Row:  # fmt: skip
    """A prompt with what was sampled already: its numbers are drawn again, its constraint follows."""
    state = constraint.begin() if constraint else None
    for token in completion.tokens:
        stream.random()
        if state:
            state.advance(token)
    return Row((*prompt, *completion.tokens), completion, stream, state, len(completion.tokens) + now)


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
    model: Transformer, decoder: Decoder, rows: list[Row], ends: Ends, temperature: float, record: bool
) -> None:  # fmt: skip
    """Extend the completions of `rows` until each has ended or is paused."""
    room = max(row.pause_at - len(row.completion.tokens) for row in rows)
    routers, routes = model.routers() if record else [], list[Tensor]()
    for router in routers:
        router.recording, router.recorded_NK = True, None
    tokens_B, cache = prefill(model, [row.prompt for row in rows], room, routes if record else None)
    everyone, parts = rows, {id(row): [of[: len(row.prompt) - 1]] for row, of in zip(rows, routes, strict=False)}
    going, states = [True] * len(rows), [row.state for row in rows]
    while any(going):
        if sum(going) < COMPACT_BELOW * len(going):
            kept = [i for i, goes_on in enumerate(going) if goes_on]
            rows, states, going = [rows[i] for i in kept], [states[i] for i in kept], [True] * len(kept)
            keep = torch.tensor(kept, device=tokens_B.device)
            tokens_B = tokens_B[keep]
            cache.select(keep)
        tokens_B, log_probs_B = step(decoder, tokens_B, cache, [row.stream for row in rows], states, temperature)
        now_BLK = recorded(routers, len(rows)) if record else None
        for i, (token, log_prob) in enumerate(zip(tokens_B.tolist(), log_probs_B.tolist(), strict=True)):
            if going[i]:
                row, state = rows[i], states[i]
                if now_BLK is not None:
                    parts.setdefault(id(row), []).append(now_BLK[i : i + 1])
                if ends.take(row.completion, token, log_prob, row.pause_at):
                    going[i], states[i] = False, None
                elif state is not None:
                    state.advance(token)
    for router in routers:
        router.recording = False
    for row in everyone if record else []:
        row.completion.routes = torch.cat(parts[id(row)]).to(torch.int16).cpu().numpy()
