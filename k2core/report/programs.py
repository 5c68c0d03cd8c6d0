"""Coding problems and repository tasks: how many were tried and kept, and a task to read."""

from __future__ import annotations

from typing import Any

from k2core.report.results import Results

STAGE = "programs"
PART = "programs.html.jinja"
"""What the page includes, if there is a program."""


def programs(results: Results) -> dict[str, Any] | None:
    """`problems` and `packages` with what was tried and kept, `reasons` by frequency, `task` to read; None: no program.

    A package's rows count mistakes, a file's rows problems whose own solution was run.
    """
    figures = results.figures.get(STAGE, {})
    problems = [
        {"name": name, "tried": int(kept + figures[f"problems_refused/{name}"]), "kept": int(kept)}
        for name, kept in _below(figures, "problems/")
    ]
    packages = [
        {"name": name, "tried": int(figures[f"tried/{name}"]), "kept": int(kept)}
        for name, kept in _below(figures, "repairs/")
    ]
    if not problems and not packages:
        return None
    reasons = sorted(_below(figures, "why/"), key=lambda each: -each[1])
    return {
        "problems": problems, "packages": packages, "task": next(iter(results.repairs), None),
        "reasons": [{"name": name.replace("_", " "), "count": int(count)} for name, count in reasons],
    }  # fmt: skip


def _below(figures: dict[str, float], prefix: str) -> list[tuple[str, float]]:
    return [(name.removeprefix(prefix), value) for name, value in figures.items() if name.startswith(prefix)]
