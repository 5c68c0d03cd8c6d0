"""Partial rollouts: trajectories that wait for the next iteration, and the groups that wait for them (K1.5 §2.6.2).

In an iteration a trajectory gets at most so many tokens. One that needs more is paused and goes on in the next
iteration, under the policy of that time. What it has is kept as it was sampled: each token with its log-probability
under the policy that sampled it, and with that policy's number. A group is learnt from once all of its trajectories are
over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from k2core.inference.trajectory import Prompt, Rollout, Trajectory
from k2core.training.history import Metrics

if TYPE_CHECKING:
    from k2core.chat.tokenizer import Tokenizer


@dataclass(frozen=True)
class Waiting:
    """The trajectories of a prompt, which has a number, not all of them over."""

    number: int
    trajectories: list[Trajectory]


class PartialRollouts:
    """Groups under way, from one iteration to the next."""

    def __init__(self) -> None:
        self.waiting: list[Waiting] = []

    def collect(
        self, fresh: Sequence[Waiting], go_on: Callable[[Sequence[Trajectory]], None]
    ) -> tuple[list[Waiting], Metrics]:
        """The groups that `go_on` completed, oldest first; the others wait. `go_on` gets all that are not over."""
        resumed = sum(not each.over for group in self.waiting for each in group.trajectories)
        groups = [*self.waiting, *fresh]
        go_on([each for group in groups for each in group.trajectories if not each.over])
        done = [group for group in groups if all(each.over for each in group.trajectories)]
        self.waiting = [group for group in groups if not all(each.over for each in group.trajectories)]
        paused = sum(not each.over for group in self.waiting for each in group.trajectories)
        return done, {"partial/resumed": float(resumed), "partial/paused": float(paused)}

    def state(self) -> list[dict[str, Any]]:
        """What `restore` needs; JSON."""
        return [
            {"number": group.number, "trajectories": [each.state() for each in group.trajectories]}
            for group in self.waiting
        ]

    def restore(self, state: list[dict[str, Any]], prompts: Sequence[Prompt], tokenizer: Tokenizer) -> None:
        """Go on from what `state` gave.

        Args:
            prompts: those that have the numbers.

        Raises:
            StorageError: an environment answers otherwise than it did.
        """
        self.waiting = [
            Waiting(
                group["number"],
                [Trajectory.restored(prompts[group["number"]], own, tokenizer) for own in group["trajectories"]],
            )
            for group in state
        ]


def stale_share(groups: Sequence[Sequence[Rollout]], version: int) -> float:
    """Share of the sampled tokens that another policy than `version` sampled; 0 if there are none."""
    rollouts = [rollout for group in groups for rollout in group]
    sampled = sum(sum(rollout.mask) for rollout in rollouts)
    return sum(rollout.stale(version) for rollout in rollouts) / max(1, sampled)
