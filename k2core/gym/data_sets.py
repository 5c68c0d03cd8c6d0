"""Any data set of reasoning-gym as an environment: its questions as they are, its own rule for what is right.

A data set's entries are divided by the hash of their question, in the order in which it makes them. An item passes or
fails: reasoning-gym's partial scores would pay for half an answer, and many of them for any answer at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import cached_property
from typing import Any

from k2core.gym.answers import UNSOUND, gold_of, is_right
from k2core.gym.base import MAX_DRAWS, Item, Split, answer, question, response_text, split_of
from k2core.recipe import did_you_mean, modules_in

SIZE = 20_000
"""Entries of a data set: some draw all at once, and word_ladder allows no more."""
ITEMS: dict[Split, int] = {"train": 15_000, "heldout": 3_000}
"""What every data set has of either split, whose shares are four fifths and one fifth of `SIZE`."""
OURS = ("seed", "size")
"""Keys of a data set's config that the environment sets."""


@dataclass(frozen=True)
class DataSetEnvironment:
    """The data set `name` with the settings `config`."""

    name: str
    max_new_tokens: int
    config: Mapping[str, Any]
    drawn: dict[int, _Drawn] = field(default_factory=dict, repr=False, compare=False)

    def size(self, split: Split) -> int:
        """As many items as every data set has."""
        return ITEMS[split]

    def item(self, seed: int, split: Split, index: int) -> Item:
        """Entry number `index` of those that belong to `split`.

        Raises:
            ValueError: the data set has too few different questions at this difficulty.
        """
        if seed not in self.drawn:
            self.drawn[seed] = _Drawn(self.name, make(self.name, self.config, seed))
        return self.drawn[seed].item(split, index)

    def score(self, item: Item, completion: str) -> float:
        """1 if the answer is right, else 0."""
        return float(is_right(self.name, self._rule, response_text(completion), item.meta["entry"]))

    @cached_property
    def _rule(self) -> Any:
        return make(self.name, self.config, 0)


class _Drawn:
    """The entries of a data set so far, by split."""

    def __init__(self, name: str, data: Any) -> None:
        self.name, self.data, self.next = name, data, 0
        self.items: dict[Split, list[Item]] = {"train": [], "heldout": []}

    def item(self, split: Split, index: int) -> Item:
        found, idle = self.items[split], 0
        while len(found) <= index:
            if idle == MAX_DRAWS or self.next == SIZE:
                raise ValueError(
                    f"gym.reasoning_gym.{self.name}: {len(found)} {split} items in {self.next} draws, not "
                    f"{index + 1}; widen its config"
                )
            before, entry = len(found), self.data[self.next]
            item = Item(
                key=f"{self.name}/{entry['question']}", messages=question(entry["question"]),
                gold=answer(gold_of(entry)), meta={"entry": entry},
            )  # fmt: skip
            self.items[split_of(item.key)].append(item)
            self.next += 1
            idle = idle + 1 if len(found) == before else 0
        return found[index]


def make(name: str, config: Mapping[str, Any], seed: int) -> Any:
    """The data set (importing reasoning-gym takes seconds, so it is done here)."""
    from reasoning_gym import create_dataset

    return create_dataset(name, seed=seed * 1_000_003, size=SIZE, **config)


def check(name: str, config: Mapping[str, Any]) -> None:
    """Whether there is a data set `name` and it takes the settings `config`.

    Raises:
        ValueError: there is none, it has no such setting, or it refuses a value; says what is allowed.
    """
    from reasoning_gym.factory import DATASETS

    if name not in DATASETS:
        near = get_close_matches(name, DATASETS, n=3, cutoff=0.4)
        raise ValueError(f"{name}: reasoning-gym has no such data set; nearest: {', '.join(near or sorted(DATASETS))}")
    if name in UNSOUND:
        raise ValueError(f"{name}: {UNSOUND[name]}, so it would reward what is wrong; take another data set")
    if name in modules_in("k2core.gym.environments"):
        raise ValueError(f"{name}: k2core/gym/environments has an environment of that name; it needs no entry here")
    allowed = [each.name for each in fields(DATASETS[name][1]) if each.name not in OURS]
    for key in config:
        if key not in allowed:
            hint = did_you_mean(key, allowed)
            raise ValueError(f"{name}.config.{key}: unknown key{hint}; allowed here: {', '.join(allowed)}")
    try:
        entry = make(name, config, 0)[0]
    except Exception as error:  # noqa: BLE001 (whatever a data set does with a value that it cannot use)
        said = str(error) or type(error).__name__
        raise ValueError(f"{name}.config = {dict(config)}: the data set cannot use it: {said}") from None
    if entry["answer"] is None and not gold_of(entry):
        raise ValueError(f"{name}: this data set gives no right answers, only a rule; there is nothing to learn from")
