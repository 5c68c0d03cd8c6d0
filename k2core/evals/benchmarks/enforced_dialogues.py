"""The tasks of `dialogues.py` once more with the Enforcer (K2, Appendix B): its scores as `enforced_dialogues/...`.

A call can then name declared tools only and fits their schemas; whether it is the right call is up to the model.
"""

from __future__ import annotations

from k2core.evals.benchmarks.dialogues import play_and_score
from k2core.evals.subject import Measured, Subject
from k2core.inference.enforcer import Enforcer

NAME = "enforced_dialogues"


def measure(subject: Subject) -> Measured:
    """Play the first `dialogues` held-out tasks."""
    _, scored = play_and_score(subject, NAME, Enforcer(subject.tokenizer))
    return Measured(scored)
