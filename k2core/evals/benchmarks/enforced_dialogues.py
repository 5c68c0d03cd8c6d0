"""The tasks of `dialogues.py` once more with the Enforcer (K2, Appendix B): its scores as `enforced_dialogues/...`.

A call can then name declared tools only and fits their schemas; whether it is the right call is up to the model.
"""

from __future__ import annotations

from typing import Any

from k2core.agentic.dialogues.model_agent import ModelAgent
from k2core.evals.benchmarks.dialogues import ENVIRONMENT, groups, play, scores
from k2core.evals.subject import Measured, Subject
from k2core.inference.enforcer import Enforcer

NAME = "enforced_dialogues"


def measure(subject: Subject) -> Measured:
    """Play the first `dialogues` held-out tasks."""
    environment: Any = subject.environments[ENVIRONMENT]
    settings, enforcer = subject.settings, Enforcer(subject.tokenizer)

    def agent(temperature: float) -> ModelAgent:
        return ModelAgent(
            subject.model, subject.tokenizer, environment.max_new_tokens, temperature, subject.seed, enforcer=enforcer
        )

    played = play(environment, settings.dialogues, agent, settings.samples, subject.seed)
    return Measured(scores(played, groups(environment.tasks["train"]), subject.seed, NAME))
