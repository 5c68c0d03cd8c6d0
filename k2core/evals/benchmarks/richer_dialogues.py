"""The first `dialogues` held-out tasks of the richer kinds, played whole as in `dialogues.py`: `richer_dialogues/...`.

They have scores of their own, so that those of the five kinds stay comparable. `unseen_domains` are worlds that
training never sees. There are no scores where the recipe makes no such tasks (`tasks.richer.heldout`).
"""

from __future__ import annotations

from typing import Any

from k2core.agentic.tasks.richer import KINDS
from k2core.evals.benchmarks.dialogues import ENVIRONMENT, play_and_score, readable
from k2core.evals.subject import Measured, Subject


def measure(subject: Subject) -> Measured:
    """Play them."""
    environment: Any = subject.environments[ENVIRONMENT]
    if not any(task["kind"] in KINDS for task in environment.tasks["heldout"]):
        return Measured({})
    played, scored = play_and_score(subject, "richer_dialogues", kinds=KINDS)
    return Measured(scored, samples=readable(played, subject.settings.readable))
