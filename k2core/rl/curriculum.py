"""Which training items to sample next: more often those that fail more often (K1.5 §2.3.4).

Items are drawn with probability proportional to 1 - s, where s is the item's tracked success rate. The pool holds
items of moderate difficulty for the model that RL starts from, by its pass rate over a few samples (K2 §3.2.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any


class PrioritizedSampler:
    """Draws item numbers with probability proportional to 1 - success rate.

    Args:
        success: the success rate of each item so far (of the model that RL starts from).
        momentum: weight of the past in the running success rate, 0 <= momentum < 1.
        floor: least weight, so that no item is ever forgotten; with every item solved, all are equally likely.

    Raises:
        ValueError: no items, or a rate outside [0, 1].
    """

    def __init__(self, success: Sequence[float], *, momentum: float, floor: float) -> None:
        if not success or any(not 0 <= rate <= 1 for rate in success):
            raise ValueError("needs at least one item, and success rates within [0, 1]")
        self.success, self.momentum, self.floor = list(success), momentum, floor

    def probabilities(self) -> list[float]:
        """The chance of each item at the next draw."""
        weights = [max(1 - rate, self.floor) for rate in self.success]
        total = sum(weights)
        return [weight / total for weight in weights]

    def draw(self, count: int, random: Random) -> list[int]:
        """`count` different items (all of them when there are no more), in random order."""
        weights = self.probabilities()
        # exponential races: the `count` smallest of Exp(weight) are a weighted sample without replacement
        arrival = {item: random.expovariate(weight) for item, weight in enumerate(weights)}
        return sorted(arrival, key=lambda item: arrival[item])[:count]

    def update(self, item: int, rate: float) -> None:
        """Fold the success rate of a new group of samples into the running one."""
        self.success[item] = self.momentum * self.success[item] + (1 - self.momentum) * rate

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"success": list(self.success)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state.

        Raises:
            ValueError: it belongs to a pool of another size.
        """
        if len(state["success"]) != len(self.success):
            raise ValueError(f"the state has {len(state['success'])} items, the pool {len(self.success)}")
        self.success = list(state["success"])


def moderate(success: Sequence[float], lowest: float, highest: float) -> list[int]:
    """Numbers of the items whose success rate lies within [lowest, highest]; all items if none does."""
    chosen = [item for item, rate in enumerate(success) if lowest <= rate <= highest]
    return chosen or list(range(len(success)))
