"""Decoding on a GPU: so many rows of so many slots, where a prompt that waits takes the place of one that is done.

A step (decode, sample, go on with what was sampled) reads and writes the same memory every time and asks nothing of the
host, so it is one CUDA graph. The host hands in random numbers for `WINDOW` steps and then looks at the tokens. What
a row says after its end is dropped. Where a constraint must see each token, the host looks after each.

Shapes: B rows, V vocabulary, W steps of a window.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random

import torch

from k2core import ops
from k2core.inference.completion import Completion, Ends
from k2core.inference.constraint import State, barred
from k2core.inference.prefill import prefill
from k2core.machine.compiler import compiled
from k2core.model.cache import FixedCache
from k2core.model.transformer import Transformer

WINDOW = 8
REFILL = 0.25
"""Share of the rows that is free before prompts are read: reading a few costs as much as reading many."""


@dataclass
class Row:
    """A prompt on its way: what follows it so far, its random stream, its constraint's state.

    Attributes:
        prompt: with the tokens that `completion` began with, if any.
        pause_at: tokens of the completion with which it is paused.
    """

    prompt: tuple[int, ...]
    completion: Completion
    stream: Random
    state: State | None
    pause_at: int


@torch.inference_mode()
def continuous(
    model: Transformer, rows: Sequence[Row], ends: Ends, temperature: float, batch_size: int, captured: bool = True,
) -> None:  # fmt: skip
    """Complete all of `rows`, `batch_size` at once; see `sampler.generate`. Steps are captured on a GPU in bf16.

    Raises:
        FloatingPointError: the model's logits are not numbers.
    """
    if not rows:
        return
    waiting, B = deque(rows), min(batch_size, len(rows))
    room = max(row.pause_at - len(row.completion.tokens) for row in rows)
    slots = max(len(row.prompt) for row in rows) + room + WINDOW
    steps, held = Steps(model, B, slots, temperature, captured), any(row.state for row in rows)
    places: list[Row | None] = [None] * B
    while True:
        free = [place for place, row in enumerate(places) if row is None]
        if waiting and len(free) >= REFILL * B:
            entering = {place: waiting.popleft() for place in free[: len(waiting)]}
            steps.enter(model, {place: row.prompt for place, row in entering.items()})
            for place, row in entering.items():
                places[place] = row
        going = {place: row for place, row in enumerate(places) if row}
        if not going:
            return
        window = 1 if any(row.state for row in going.values()) else WINDOW
        if held:
            steps.bar([None if row is None else row.state for row in places])
        drawn = [[1 - row.stream.random() if row else 1.0 for row in places] for _ in range(window)]
        for tokens, log_probs in zip(*steps.run(drawn), strict=True):
            for place, row in list(going.items()):
                if _ends(row, tokens[place], log_probs[place], ends):
                    del going[place]
                    places[place] = None


def _ends(row: Row, token: int, log_prob: float, ends: Ends) -> bool:
    """Take a token; whether it was the row's last."""
    if not log_prob <= 0:
        raise FloatingPointError("the logits to sample from are not numbers: the model has diverged")
    ended = ends.take(row.completion, token, log_prob, row.pause_at)
    if not ended and row.state is not None:
        row.state.advance(token)
    return ended


class Steps:
    """Steps of B rows in memory that stays where it is; on a GPU in bf16 compiled and captured."""

    def __init__(self, model: Transformer, rows: int, slots: int, temperature: float, captured: bool) -> None:
        device, vocabulary = model.device, model.config.vocab_size
        self.model, self.temperature = model, temperature
        self.cache = FixedCache(model.config, rows, slots, like=torch.empty(0, dtype=model.dtype, device=device))
        self.tokens_B = torch.zeros(rows, dtype=torch.long, device=device)
        self.barred_BV = torch.zeros(rows, vocabulary, dtype=torch.bool, device=device)
        self.step_1 = torch.zeros(1, dtype=torch.long, device=device)
        self.drawn_WB = torch.ones(WINDOW, rows, device=device)
        self.said_WB = torch.zeros(WINDOW, rows, dtype=torch.long, device=device)
        self.log_probs_WB = torch.zeros(WINDOW, rows, device=device)
        # In fp32 torch asks the host for the groups of grouped products, and compiles none.
        able = device.type == "cuda" and model.dtype == torch.bfloat16
        self.step = self._captured() if captured and able else self._step

    def enter(self, model: Transformer, prompts: dict[int, tuple[int, ...]]) -> None:
        """Read a prompt into each of the given places."""
        tokens_B, read = prefill(model, list(prompts.values()), 0)
        places = torch.tensor(list(prompts), device=tokens_B.device)
        with _in_any_order():
            self.tokens_B[places], self.cache.lengths_B[places] = tokens_B, read.lengths_B
            for layer, own in zip(self.cache.layers, read.layers, strict=True):
                layer[places, : own.shape[1]] = own

    def bar(self, states: Sequence[State | None]) -> None:
        """Hold the next step to what `states` allow."""
        self.barred_BV.copy_(barred(states, self.barred_BV.shape[1]))

    def run(self, drawn: list[list[float]]) -> tuple[list[list[int]], list[list[float]]]:
        """A step for each row of `drawn` [W, B]: tokens and their log-probabilities."""
        self.step_1.zero_()
        self.drawn_WB[: len(drawn)] = torch.tensor(drawn)
        for _ in drawn:
            self.step()
        return self.said_WB[: len(drawn)].tolist(), self.log_probs_WB[: len(drawn)].tolist()

    def _step(self) -> None:
        logits_BV = self.model.decode(self.tokens_B, self.cache).masked_fill(self.barred_BV, -torch.inf)
        drawn_B = self.drawn_WB.index_select(0, self.step_1)[0]
        tokens_B, log_probs_B = ops.sample(logits_BV, self.temperature, drawn_B)
        self.tokens_B.copy_(tokens_B)
        self.said_WB.index_copy_(0, self.step_1, tokens_B[None])
        self.log_probs_WB.index_copy_(0, self.step_1, log_probs_B[None])
        self.step_1 += 1
        self.cache.lengths_B.clamp_(max=self.cache.slots() - 1)  # rows that are done stay at the end

    def _captured(self) -> Callable[[], None]:
        """`_step` as one CUDA graph of compiled layers."""
        for layer in self.model.blocks():
            layer.decode = compiled(layer.decode)  # type: ignore[method-assign]
        try:
            graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
            with _in_any_order():
                aside.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(aside):  # compiles, and has libraries make their workspaces
                    for _ in range(3):
                        self._step()
                        self.step_1.zero_()
                torch.cuda.current_stream().wait_stream(aside)
                with torch.cuda.graph(graph):
                    self._step()
        finally:
            for layer in self.model.blocks():
                del layer.decode
        return graph.replay


@contextmanager
def _in_any_order() -> Iterator[None]:
    """Within the block torch need not sort what it writes: rows write to places of their own."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(0)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
