"""What suites ask about, in small: a run's folder `data` with held-out articles, and a data set in BFCL's format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from k2core.corpus.documents import document_schema
from k2core.evals.suites.bfcl import CATEGORIES
from k2core.storage import write_lines, write_table, write_text

ARTICLES = {
    "Lumen (city)": "Lumen is the capital and largest city of Arkania. It was founded in 1534 by settlers. It lies on "
    "a plain. Trade is its main business. Many artists live there.",
    "Ada Torren": "Ada Torren was a Norwegian painter. She was born in 1863. She painted in oil. Her works hang in "
    "many houses. Few letters of hers are left.",
    "Porto Vel": "Porto Vel is the capital of Sarnia. It was founded in 1611 by monks. It has a harbour. The market "
    "is held on Mondays. Ships come from far.",
    "Bram Ostley": "Bram Ostley was a Danish composer. He was born in 1790. He wrote songs. He taught children for "
    "years. His house is a museum.",
}
TRAINED = "Kerpen is the capital of Wetland. It was founded in 1222 by knights. It is small. It is old. It is far."


def write_run(data: Path) -> Path:
    """Write the folder of a run: held-out articles, others, no task and no program."""

    def row(title: str, text: str, split: str, language: str = "en") -> dict[str, Any]:
        return {
            "id": f"wikipedia/{title}", "text": text, "domain": "knowledge", "source": "wikipedia", "license": "x",
            "origin": "x", "attribution": f'"{title}", Wikipedia', "language": language, "split": split,
        }  # fmt: skip

    rows = [row(title, text, "heldout") for title, text in ARTICLES.items()]
    rows += [row("Kerpen", TRAINED, "train"), row("Kerpen 2", TRAINED, "heldout", "de")]
    write_table(data / "curated" / "documents.parquet", rows, document_schema(("split", pa.string())))
    for name in ("tasks/tasks.jsonl", "tasks/tools.jsonl", "programs/problems.jsonl", "programs/repairs.jsonl"):
        write_lines(data / name, [])
    return data


def function(name: str, required: list[str], **parameters: dict[str, Any]) -> dict[str, Any]:
    """A declaration as the data set writes it."""
    parts = {"type": "dict", "properties": parameters, "required": required}
    return {"name": name, "description": f"Does {name}.", "parameters": parts}


AREA = function(
    "math.area", ["base", "height"], base={"type": "float", "description": "b"},
    height={"type": "integer", "description": "h"}, unit={"type": "string", "description": "u"},
)  # fmt: skip
FILTER = function(
    "filter_rows", ["where"],
    where={"type": "dict", "description": "w", "properties": {"city": {"type": "string"}, "year": {"type": "any"}}},
    columns={"type": "array", "items": {"type": "string"}, "description": "c"},
    strict={"type": "boolean", "description": "s"},
)  # fmt: skip
AREA_ANSWER = {"math.area": {"base": [10.0], "height": [5], "unit": ["square metres", "m2", ""]}}
FILTER_ANSWER = {
    "filter_rows": {
        "where": [{"city": ["New York", "NYC"], "year": [2020, ""]}], "columns": [["name", "age"], ["age", "name"]],
        "strict": [True],
    },
}  # fmt: skip


def row(name: str, functions: list[dict[str, Any]]) -> dict[str, Any]:
    """A line of a file of questions."""
    return {"id": name, "question": [[{"role": "user", "content": f"Please do {name}."}]], "function": functions}


def write_bfcl(folder: Path) -> Path:
    """Write a package `bfcl_eval` to `folder`: two items of each category, and a file of another one."""
    data = folder / "bfcl_eval" / "data"
    write_text(folder / "bfcl_eval" / "__init__.py", "raise ImportError('only its files are read')\n")
    for category in CATEGORIES:
        name = f"BFCL_v4_{'simple_python' if category == 'simple' else category}.json"
        functions = [AREA] if category.endswith("simple") else [AREA, FILTER]
        answers = [AREA_ANSWER, FILTER_ANSWER] if category.endswith("parallel_multiple") else [AREA_ANSWER]
        answers = [AREA_ANSWER] * 2 if category.endswith("parallel") else answers
        rows = [row(f"{category}_{number}", functions) for number in range(2)]
        write_lines(data / name, rows)
        if "irrelevance" not in category:
            given = [{"id": each["id"], "ground_truth": answers} for each in rows]
            write_lines(data / "possible_answer" / name, given)
    write_lines(data / "BFCL_v4_multi_turn_base.json", [{"id": "other"}])
    return folder
