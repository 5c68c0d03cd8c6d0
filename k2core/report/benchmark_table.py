"""The scorecards as a table of benchmarks and models, the best of each row marked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from k2core.report.results import MODELS

GROUPS = (
    ("Tasks with a verifier, mean over samples (Avg@k)", r"tasks/pass_rate/(\w+)", True),
    ("First replies to tool tasks", r"tool_calls/(valid_when_due|exact|trigger_f1)", True),
    ("The same with the Enforcer", r"tool_calls/enforced/(valid_when_due|exact)", True),
    ("Whole dialogues against the simulator, greedy", r"((?:\w+_)?dialogues)/greedy", True),
    ("Held-out text, bits per byte (less is better)", r"heldout/bits_per_byte/(\w+)", False),
)  # fmt: skip
"""Title, the scores of the group with their name in the table, whether more is better."""


def table(scorecards: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[dict[str, Any]]:
    """Groups with `title` and `rows`: `name`, and by model `score` and whether it is the `best` of the row."""
    cards = [scorecards[model] for model in MODELS]
    groups = []
    for title, pattern, more in GROUPS:
        rows = []
        for key in cards[-1]:
            matched = re.fullmatch(pattern, key)
            if matched is None or not all(key in card for card in cards):
                continue
            values = [card[key]["value"] for card in cards]
            best = max(values) if more else min(values)
            tells = len(set(values)) > 1
            cells = [{"score": card[key], "best": tells and card[key]["value"] == best} for card in cards]
            rows.append({"name": matched[1].replace("_", " "), "cells": cells})
        if rows:
            groups.append({"title": title, "rows": rows})
    return groups
