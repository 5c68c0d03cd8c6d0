"""Limits chosen on labelled pairs, and what limits catch and lose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.calibration.labelled import FAITHFUL, Pair
from k2core.synthesis.fidelity.gate import SCORES, GateLimits, within

Scores = Sequence[dict[str, float]]
Steps = dict[str, tuple[Any, ...]]
_SHARES = (0.7, 0.8, 0.9, 1.0)
_COUNTS = (99, 2, 1, 0)
_LIKENESS = tuple(round(0.05 * step, 2) for step in range(5, 18))
STEPS: Steps = {
    "language_score": (0.3, 0.5),
    "length_ratio": ((0.4, 2.5), (0.5, 2.0), (0.6, 1.6), (0.7, 1.5)),
    "finished": (0.0, 1.0),
    "repeated": (1.0, 0.3, 0.2, 0.1, 0.08, 0.06, 0.04),
    "copied": (0.95, 0.9, 0.85, 0.8, 0.75),
    "numbers_kept": _SHARES,
    "numbers_invented": _COUNTS,
    "names_kept": _SHARES,
    "names_invented": _COUNTS,
    "words_invented": (99, 5, 4, 3, 2, 1),
    "equations_kept": _SHARES,
    "equations_invented": _COUNTS,
    "negations_changed": _COUNTS,
    "opposites": _COUNTS,
    "roles": (-1.0, -0.5, -0.4, -0.3, -0.2, -0.15, -0.1, -0.05, 0.0, 0.05, 0.1),
    "similarity": _LIKENESS,
    "coverage": _LIKENESS,
    "support": _LIKENESS,
}
"""The limits that are tried for each score, from the loosest, which a gate should ask anyway, to the strictest."""
_STEP_COST = 0.005
"""A step must be worth this loss at least: models' faithful rewrites are further from their sources than rules'."""


@dataclass(frozen=True)
class Rates:
    """What limits do to labelled pairs.

    Attributes:
        caught: by kind of fault, rewrites rejected and all.
        lost: faithful rewrites rejected and all.
    """

    caught: dict[str, tuple[int, int]]
    lost: tuple[int, int]

    @property
    def recall(self) -> float:
        """Share of the corrupted rewrites that are rejected."""
        return self.total[0] / self.total[1]

    @property
    def recall_of_kinds(self) -> float:
        """The mean of the kinds' recalls: rare kinds count as much as frequent ones."""
        return float(np.mean([found / tried for found, tried in self.caught.values()]))

    @property
    def loss(self) -> float:
        """Share of the faithful rewrites that are rejected."""
        return self.lost[0] / self.lost[1]

    @property
    def total(self) -> tuple[int, int]:
        """Corrupted rewrites rejected, and all."""
        found, tried = zip(*self.caught.values(), strict=True)
        return sum(found), sum(tried)

    @property
    def precision(self) -> tuple[int, int]:
        """Corrupted rewrites among the rejected, and all rejected."""
        return self.total[0], self.total[0] + self.lost[0]


def rates(pairs: Sequence[Pair], scores: Scores, limits: GateLimits, seen: Sequence[bool] = ()) -> Rates:
    """What `limits` catch and lose of `pairs`, which must have faithful and corrupted ones.

    Args:
        seen: of each pair, whether something beside the limits rejects it; empty for nothing.
    """
    rejected = np.array([not all(within(row[name], name, limits) for name in SCORES) for row in scores])
    rejected |= np.array(seen or [False], dtype=bool)
    return _count([pair.kind for pair in pairs], rejected)


def choose(
    pairs: Sequence[Pair], scores: Scores, *, recall: float, loss: float, steps: Steps = STEPS
) -> tuple[GateLimits, list[tuple[str, GateLimits]]]:
    """Limits tightened step by step until the mean recall of the kinds reaches `recall`, or `loss` would be passed.

    Each step, of `steps`, is the one that catches most for what it loses. Returns the limits and the way to them: what
    was tightened, and the limits then.
    """
    kinds = [pair.kind for pair in pairs]
    faults = [kind for kind in dict.fromkeys(kinds) if kind != FAITHFUL]
    share = np.array([[kind == other for kind in kinds] for other in [FAITHFUL, *faults]], dtype=float)
    share /= share.sum(1, keepdims=True)  # (kinds, pairs) times rejected or not: the share of each kind
    fails = {
        name: np.array([[not _holds(row[name], name, limit) for row in scores] for limit in steps[name]])
        for name in steps
    }
    at = dict.fromkeys(steps, 0)
    way = [("start", _limits(at, steps))]
    while True:
        now = np.any([fails[name][at[name]] for name in steps], axis=0)
        lost, caught = _split(share @ now)
        if caught >= recall:
            break
        best: tuple[float, str, int] | None = None
        for name in steps:
            for place in range(at[name] + 1, len(steps[name])):
                lost_then, caught_then = _split(share @ (now | fails[name][place]))
                cost = lost_then - lost + _STEP_COST * (place - at[name])
                worth = (caught_then - caught) / cost
                if worth > 0 and lost_then <= loss and (best is None or worth > best[0]):
                    best = (worth, name, place)
        if best is None:
            break
        at[best[1]] = best[2]
        way.append((best[1], _limits(at, steps)))
    return _limits(at, steps), way


def _split(shares: Any) -> tuple[float, float]:
    return float(shares[0]), float(shares[1:].mean())


def _limits(at: dict[str, int], steps: Steps) -> GateLimits:
    return GateLimits(**{name: steps[name][place] for name, place in at.items()})


def _holds(score: float, name: str, limit: Any) -> bool:
    return within(score, name, GateLimits.model_construct(**{name: limit}))


def _count(kinds: Sequence[str], rejected: Any) -> Rates:
    caught: dict[str, tuple[int, int]] = {}
    for kind in dict.fromkeys(kinds):
        of_kind = rejected[[other == kind for other in kinds]]
        caught[kind] = (int(of_kind.sum()), len(of_kind))
    return Rates({kind: count for kind, count in caught.items() if kind != FAITHFUL}, caught[FAITHFUL])
