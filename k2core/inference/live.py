"""Decoding for many who ask at different times: a prompt enters between two steps and leaves with its last token.

A thread owns the model. Its rows are the first so many of a cache of fixed size: the last row takes the place of one
that ends, so a step reads and computes nothing for empty rows. What a prompt is answered depends on (model, prompt, its
random numbers, its constraint) alone, up to the rounding of differently shaped matrix products; at `top_p` 1 it is what
`sampler.generate` gives.

Shapes: B rows, V vocabulary, T positions.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

import torch
from torch import Tensor

from k2core import ops
from k2core.inference.constraint import State, barred
from k2core.inference.decoders import decoder_for
from k2core.inference.prefill import prefill
from k2core.model.cache import KeyValueCache
from k2core.model.lowered import lowered
from k2core.model.transformer import Transformer

READ_AT_ONCE = 4096
"""Most tokens of prompts, with padding, that are read between two steps: everybody else waits meanwhile."""
FAULTS = (RuntimeError, ValueError, ArithmeticError, LookupError, MemoryError)
"""What a step may raise: those whom it concerns are told, and the thread goes on."""
Likeliest = list[tuple[int, float]]
"""The likeliest tokens and their log-probabilities."""


@dataclass(frozen=True)
class Token:
    """One more token of an answer.

    Attributes:
        log_prob: in nats, of the model as it is: before temperature, `top_p` and constraint. None unless asked for.
        finish: why it is the last one: it stops, or the budget is used. None: more will come.
    """

    id: int
    log_prob: float | None
    likeliest: Likeliest
    finish: Literal["stop", "length"] | None


@dataclass(frozen=True)
class Scored:
    """Log-probabilities of a prompt's tokens from the second on. `finish` is given where nothing will follow."""

    log_probs: list[float]
    likeliest: list[Likeliest]
    finish: Literal["length"] | None


@dataclass(frozen=True)
class Failed:
    """Nothing more will come."""

    reason: str


Heard = Token | Scored | Failed


class Busy(Exception):
    """Too many prompts wait already."""


@dataclass(eq=False)
class Asked:
    """A prompt and what is wanted of it; also its row while it is answered.

    Attributes:
        most: tokens of the answer at most; 0 only with `scored`.
        temperature: 0 is greedy.
        top_p: only the likeliest tokens that have this much probability together are drawn.
        likeliest: so many of the likeliest tokens are told beside each, with log-probabilities; None: neither.
        scored: whether the prompt's own log-probabilities are told first.
        hear: is given what is told; `Engine` says in which thread.
        gone: set it when nobody listens any more; the row is then free.
    """

    prompt: tuple[int, ...]
    most: int
    temperature: float
    top_p: float
    stop_ids: frozenset[int]
    random: Random
    state: State | None
    likeliest: int | None
    scored: bool
    hear: Callable[[Heard], None]
    gone: bool = False
    last: int = -1
    made: int = 0


class Engine:
    """Answers prompts until it is closed.

    Args:
        rows: prompts answered at once.
        slots: tokens of a prompt and its answer, at most.
        waiting: prompts that may wait for a row.
        tell: is given all that a step has to tell, in the engine's thread, and has each `hear` called.
    """

    def __init__(
        self, model: Transformer, *, rows: int, slots: int, waiting: int,
        tell: Callable[[list[tuple[Asked, Heard]]], None],
    ) -> None:  # fmt: skip
        self.model = lowered(model)
        self.rows, self.slots, self.most_waiting, self.tell = rows, slots, waiting, tell
        self.waiting: deque[Asked] = deque()
        self.going: list[Asked] = []
        self.closed = False
        self.changed = threading.Condition()
        like = torch.empty(0, dtype=self.model.dtype, device=self.model.device)
        self.cache = KeyValueCache(model.config, rows, slots, like)
        self.threads = torch.get_num_threads()
        self.thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self.thread.start()

    def ask(self, asked: Sequence[Asked]) -> None:
        """Have all of `asked` answered.

        Raises:
            Busy: they would not fit among those that wait, or the engine is closed; none of them is taken.
        """
        with self.changed:
            if self.closed or len(self.waiting) + len(asked) > self.most_waiting:
                raise Busy
            self.waiting.extend(asked)
            self.changed.notify()

    def close(self) -> None:
        """End the thread; who still waits is told."""
        with self.changed:
            self.closed = True
            self.changed.notify()
        self.thread.join()

    @torch.inference_mode()
    def _run(self) -> None:
        torch.set_num_threads(self.threads)  # a thread starts with all cores
        self.decoder = decoder_for(self.model)
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.closed or self.waiting or self.going)
                if self.closed:
                    break
                for place in reversed([place for place, row in enumerate(self.going) if row.gone]):
                    self._leave(place)
                entering = self._entering()
            said: list[tuple[Asked, Heard]] = []
            try:
                self._enter(entering, said)
                if self.going:
                    self._step(said)
            except FAULTS as error:
                concerned = dict.fromkeys([*self.going, *entering])
                said += [(row, Failed(f"{type(error).__name__}: {error}")) for row in concerned]
                self.going.clear()
            if said:
                self.tell(said)
        self.tell([(row, Failed("the server is ending")) for row in (*self.going, *self.waiting)])

    def _entering(self) -> list[Asked]:
        """Who comes next: as many as there are rows for, and as may be read at once."""
        chosen: list[Asked] = []
        while self.waiting and len(self.going) + len(chosen) < self.rows:
            longest = max(len(asked.prompt) for asked in (*chosen, self.waiting[0]))
            if chosen and longest * (len(chosen) + 1) > READ_AT_ONCE:
                break
            asked = self.waiting.popleft()
            if not asked.gone:
                chosen.append(asked)
        return chosen

    def _enter(self, entering: list[Asked], said: list[tuple[Asked, Heard]]) -> None:
        for asked in entering:
            if asked.scored:
                said.append((asked, self._scored(asked)))
        staying = [asked for asked in entering if asked.most]
        if not staying:
            return
        tokens_B, read = prefill(self.model, [asked.prompt for asked in staying], 0)
        first, after = len(self.going), len(self.going) + len(staying)
        self.cache.lengths_B[first:after] = read.lengths_B
        for layer, own in zip(self.cache.layers, read.layers, strict=True):
            layer[first:after, : own.shape[1]] = own
        for asked, token in zip(staying, tokens_B.tolist(), strict=True):
            asked.last = token
        self.going += staying

    def _scored(self, asked: Asked) -> Scored:
        tokens_1T = torch.tensor([asked.prompt], device=self.model.device)
        log_probs_TV = self.model(tokens_1T)[0, :-1].float().log_softmax(-1)
        log_probs = log_probs_TV.gather(1, tokens_1T[0, 1:, None])[:, 0].tolist()
        likeliest = _likeliest(log_probs_TV, asked.likeliest or 0)
        return Scored(log_probs, likeliest, None if asked.most else "length")

    def _step(self, said: list[tuple[Asked, Heard]]) -> None:
        rows, cache = self.going, _First(self.cache, len(self.going))
        logits_BV = self.decoder.decode(torch.tensor([row.last for row in rows], device=self.model.device), cache)
        self.cache.lengths_B[: len(rows)] = cache.lengths_B
        told = [place for place, row in enumerate(rows) if row.likeliest is not None]
        plain_BV = logits_BV[told].float().log_softmax(-1)
        if any(row.state for row in rows):
            states = [row.state for row in rows]
            logits_BV = logits_BV.masked_fill(barred(states, logits_BV.shape[1]).to(logits_BV.device), -torch.inf)
        tokens = _drawn(logits_BV, rows)
        beside: dict[int, tuple[float | None, Likeliest]] = {}
        if told:
            own = plain_BV.gather(1, torch.tensor([[tokens[place]] for place in told], device=plain_BV.device))
            likeliest = _likeliest(plain_BV, max(rows[place].likeliest or 0 for place in told))
            for place, log_prob, others in zip(told, own[:, 0].tolist(), likeliest, strict=True):
                beside[place] = log_prob, others[: rows[place].likeliest]
        for place in reversed(range(len(rows))):
            row, token = rows[place], tokens[place]
            row.last, row.made = token, row.made + 1
            finish: Literal["stop", "length"] | None = None
            if token in row.stop_ids:
                finish = "stop"
            elif row.made == row.most:
                finish = "length"
            elif row.state is not None:
                row.state.advance(token)
            log_prob, others = beside.get(place, (None, []))
            said.append((row, Token(token, log_prob, others, finish)))
            if finish:
                self._leave(place)

    def _leave(self, place: int) -> None:
        """Free the row at `place`; the last one takes it."""
        row, last = self.going.pop(), len(self.going)
        if place == last:
            return
        self.going[place] = row
        length = int(self.cache.lengths_B[last])
        self.cache.lengths_B[place] = length
        for layer in self.cache.layers:
            layer[place, :length] = layer[last, :length]


class _First(KeyValueCache):
    """The first so many rows of a cache, in its memory."""

    def __init__(self, cache: KeyValueCache, rows: int) -> None:
        self.layers = [layer[:rows] for layer in cache.layers]
        self.lengths_B = cache.lengths_B[:rows].clone()


def _drawn(logits_BV: Tensor, rows: Sequence[Asked]) -> list[int]:
    """A token for each row.

    Raises:
        FloatingPointError: the logits are not numbers.
    """
    if any(row.top_p < 1 and row.temperature for row in rows):
        logits_BV = _nucleus(logits_BV, rows)
    drawn_B = torch.tensor([1 - row.random.random() for row in rows], device=logits_BV.device)
    tokens_B = torch.empty(len(rows), dtype=torch.long, device=logits_BV.device)
    places: dict[float, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.temperature, []).append(place)
    for temperature, of in places.items():
        tokens, log_probs = ops.sample(logits_BV[of], temperature, drawn_B[of])
        if not bool((log_probs <= 0).all()):
            raise FloatingPointError("the logits to sample from are not numbers: the model has diverged")
        tokens_B[of] = tokens
    return tokens_B.tolist()


def _nucleus(logits_BV: Tensor, rows: Sequence[Asked]) -> Tensor:
    """-inf for all but the likeliest tokens that have `top_p` together, the one that reaches it included."""
    device = logits_BV.device
    most_B1 = torch.tensor([[row.top_p if row.temperature else 1.0] for row in rows], device=device)
    temperature_B1 = torch.tensor([[row.temperature or 1.0] for row in rows], device=device)
    falling_BV, order_BV = (logits_BV.float() / temperature_B1).softmax(-1).sort(dim=-1, descending=True, stable=True)
    beyond_BV = (falling_BV.cumsum(-1) - falling_BV >= most_B1) & (most_B1 < 1)
    return logits_BV.masked_fill(beyond_BV.scatter(1, order_BV, beyond_BV), -torch.inf)


def _likeliest(log_probs_TV: Tensor, count: int) -> list[Likeliest]:
    """The `count` likeliest tokens of each row."""
    if not count:
        return [[] for _ in range(len(log_probs_TV))]
    values, tokens = log_probs_TV.topk(min(count, log_probs_TV.shape[1]), dim=-1)
    return [list(zip(*pair, strict=True)) for pair in zip(tokens.tolist(), values.tolist(), strict=True)]
