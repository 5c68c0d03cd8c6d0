"""The held-out tool tasks of a run: the right calls, the right question, or a refusal."""

from __future__ import annotations

from pathlib import Path

from k2core.evals.suites import of_a_run
from k2core.gym.tool_call import ToolCall


def make(data: Path | None) -> ToolCall:
    """The environment."""
    return ToolCall.load(of_a_run(data) / "tasks")
