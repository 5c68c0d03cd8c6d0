"""What an environment is: items as a pure function of (seed, split, index), and a verifier.

Train and held-out items are disjoint by construction: the hash of what an item is about (the numbers, the word),
not of its wording, decides its split, so no seed and no index can move one over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from k2core import storage
from k2core.chat.special_tokens import DEFAULT_SYSTEM, IM_END
from k2core.storage import Split

if TYPE_CHECKING:
    from k2core.chat.tokenizer import Tokenizer
    from k2core.inference.rollouts import Episode

Message = dict[str, Any]
HELDOUT_SHARE = 0.2
MAX_DRAWS = 256
UNLIMITED = 2**20
SYSTEM = DEFAULT_SYSTEM


@dataclass(frozen=True)
class Item:
    """One problem: a chat prompt, the tools it declares, and one correct assistant message."""

    key: str
    messages: list[Message]
    gold: Message
    tools: list[dict[str, Any]] | None = None
    meta: dict[str, Any] = field(default_factory=dict)


class Environment(Protocol):
    """A task with a verifier."""

    @property
    def name(self) -> str:
        """What the recipe calls it."""

    @property
    def max_new_tokens(self) -> int:
        """Its token budget for a response (K2 §3.2.3)."""

    def size(self, split: Split) -> int:
        """How many items there are; `UNLIMITED` for a generator."""

    def item(self, seed: int, split: Split, index: int) -> Item:
        """The item at `index`: equal arguments give equal items, whatever was asked before."""

    def score(self, item: Item, completion: str) -> float:
        """Reward in [0, 1] of the text after the generation prompt (special tokens kept); 1 means passed."""


@runtime_checkable
class Episodic(Environment, Protocol):
    """An environment that answers responses, so that an item takes several of them."""

    def episode(self, item: Item, tokenizer: Tokenizer) -> Episode:
        """A fresh episode with the item."""


def split_of(key: str) -> Split:
    """The split that everything about `key` belongs to; a fifth of all keys is held out."""
    return storage.split_of(key, HELDOUT_SHARE)


def first_of_split(split: Split, draw: Callable[[int], Item]) -> Item:
    """The first of the items `draw(0), draw(1), ...` that belongs to `split`.

    Raises:
        ValueError: none of `MAX_DRAWS` items does (the space of items is too small).
    """
    for attempt in range(MAX_DRAWS):
        item = draw(attempt)
        if split_of(item.key) == split:
            return item
    raise ValueError(f"no {split} item among {MAX_DRAWS} draws; widen the environment's range of values")


def generated(stream: str, split: Split, draw: Callable[[Random], Item]) -> Item:
    """The first item of `split` that `draw` makes from the random stream named `stream`.

    Raises:
        ValueError: as `first_of_split`.
    """
    random = Random(stream)
    return first_of_split(split, lambda _: draw(random))


def question(text: str) -> list[Message]:
    """A one-turn prompt; the short system message replaces the template's long default."""
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]


def answer(text: str) -> Message:
    """The assistant message that says just `text`."""
    return {"role": "assistant", "content": text}


def response_text(completion: str) -> str:
    """The visible text of a completion: the end-of-turn token and surrounding space removed."""
    return completion.removesuffix(IM_END).strip()
