"""Held-out tasks that the models played whole: their scores as a table of groups, and dialogues to read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from k2core.report.results import MODELS, Results

Score = Mapping[str, float]
_SCORE = re.compile(r"(?P<of>(?:enforced_|richer_)?dialogues)/(?P<measure>\w+)(?:/(?P<group>\w+))?")


def of_a_group(score: str) -> bool:
    """Whether `table` shows `score`; a list of all scores would be too long with it."""
    matched = _SCORE.fullmatch(score)
    return matched is not None and matched["group"] is not None


def table(scorecards: Mapping[str, Mapping[str, Score]]) -> dict[str, Any] | None:
    """`measures`, and `rows` of a group and, by measure, the models' scores (None: no such score); None if unplayed."""
    cards = [scorecards[model] for model in MODELS]
    found = [m for name in cards[-1] if (m := _SCORE.fullmatch(name)) and m["of"] != "enforced_dialogues"]
    if not found:
        return None
    measures = list(dict.fromkeys(matched["measure"] for matched in found))
    rows = []
    for of, group in dict.fromkeys((matched["of"], matched["group"]) for matched in found):
        names = [f"{of}/{measure}" + (f"/{group}" if group else "") for measure in measures]
        cells = [[card[name] for card in cards] if all(name in card for card in cards) else None for name in names]
        of_these = "all" if of == "dialogues" else "richer kinds"
        rows.append({"group": group or of_these, "cells": cells})
    return {"measures": measures, "rows": rows}


def some(results: Results, count: int) -> list[dict[str, Any]]:
    """The first `count` tasks that every model played, each with the models' rows of `samples.jsonl`."""
    by_task = [{row["task"]: row for row in results.samples[model] if "messages" in row} for model in MODELS]
    tasks = [task for task in by_task[-1] if all(task in rows for rows in by_task)]
    return [
        {"task": task, "kind": by_task[-1][task]["kind"], "prompt": by_task[-1][task]["prompt"],
         "rows": [rows[task] for rows in by_task]}
        for task in tasks[:count]
    ]  # fmt: skip
