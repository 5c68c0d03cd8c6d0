"""The Berkeley Function-Calling Leaderboard's single turns about Python functions, from the files of `bfcl-eval`.

Calls are held against the answers that the data set allows, by the rules of its own checker, with two differences. JSON
has one kind of number, so 3 may stand for 3.0 in lists too. Where no call is due (`irrelevance`, a fifth of the first
items), a reply must say something. Not here: Java, JavaScript, several turns, web search and memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Any

from k2core.chat.parser import load_arguments, parse_assistant
from k2core.gym.base import Item, Split, answer, response_text
from k2core.storage import StorageError, read_lines

KINDS = ("simple", "multiple", "parallel", "parallel_multiple", "irrelevance")
CATEGORIES = tuple(f"{live}{kind}" for live in ("", "live_") for kind in KINDS)
PYTHON = {"simple": "simple_python"}
"""Categories with another name in the files' newest release."""
TYPES = {"dict": "object", "float": "number", "tuple": "array"}
"""The data set's types in JSON Schema's words; `any` is none."""
VALUES: dict[str, type] = {
    "string": str, "integer": int, "float": float, "boolean": bool, "array": list, "tuple": list, "dict": dict,
    "any": str,
}  # fmt: skip
REFUSAL = "None of these functions can do that."
Row = dict[str, Any]


@dataclass(frozen=True)
class Bfcl:
    """Rows of the data set, each with `category` and, where calls are due, `ground_truth`."""

    rows: list[Row]
    name: str = "bfcl"
    max_new_tokens: int = 256

    def size(self, split: Split) -> int:
        """Nothing is trained on."""
        return len(self.rows) if split == "heldout" else 0

    def item(self, seed: int, split: Split, index: int) -> Item:
        """Row number `index`."""
        row = self.rows[index]
        return Item(
            f"{self.name}/{row['id']}", row["question"][0], _gold(row), tools=[_wire(each) for each in row["function"]],
            meta={"row": row},
        )  # fmt: skip

    def score(self, item: Item, completion: str) -> float:
        """1 for the calls that are due and no others, in any order; words without a call where none is due."""
        row = item.meta["row"]
        reply = parse_assistant(completion)
        if "ground_truth" not in row:
            return float(not reply.tool_calls and not reply.errors and bool(response_text(completion)))
        try:
            calls = [(call.name, load_arguments(call.arguments)) for call in reply.tool_calls]
        except ValueError:
            return 0.0
        return float(not reply.errors and matches(calls, row))


def matches(calls: Sequence[tuple[str, Row]], row: Row) -> bool:
    """Whether the calls are those of `ground_truth`, in any order, each of which takes the first call that fits."""
    described = {each["name"]: each for each in row["function"]}
    left = list(calls)
    for due in row["ground_truth"]:
        ((name, allowed),) = due.items()
        fitting = next((call for call in left if _fits(call, described[name], allowed)), None)
        if fitting is None:
            return False
        left.remove(fitting)
    return not left


def _fits(call: tuple[str, Row], function: Row, allowed: dict[str, list[Any]]) -> bool:
    name, given = call
    parameters = function["parameters"]
    if name != _plain_name(function["name"]) or not set(parameters.get("required", ())) <= given.keys():
        return False
    if not given.keys() <= parameters["properties"].keys() & allowed.keys():
        return False
    if any(each not in given and "" not in values for each, values in allowed.items()):
        return False
    return all(_allowed(value, allowed[key], parameters["properties"][key]["type"]) for key, value in given.items())


def _allowed(value: Any, answers: list[Any], kind: str) -> bool:
    """Whether a value has the type that is declared, or that of the answers, and is one of the answers."""
    if kind == "float" and type(value) is int:
        value = float(value)
    meant = next((type(each) for each in answers if each != ""), None)
    if type(value) not in (VALUES[kind], meant):
        return False
    if isinstance(value, dict):
        return any(_same_dict(value, each) for each in answers if isinstance(each, dict))
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        return any(_same_dicts(value, each) for each in answers if isinstance(each, list))
    return _normal(value) in [_normal(each) for each in answers]


def _same_dict(value: Row, allowed: dict[str, list[Any]]) -> bool:
    """Each key has one of the values that are allowed, and none is left out that may not be."""
    if not value.keys() <= allowed.keys():
        return False
    if any(key not in value and "" not in values for key, values in allowed.items()):
        return False
    return all(_normal(part) in [_normal(each) for each in allowed[key]] for key, part in value.items())


def _same_dicts(value: list[Any], allowed: list[Any]) -> bool:
    return len(value) == len(allowed) and all(
        isinstance(one, dict) and isinstance(other, dict) and _same_dict(one, other)
        for one, other in zip(value, allowed, strict=True)
    )


def _normal(value: Any) -> Any:
    """Texts without case, spaces and some punctuation; truth values told from numbers."""
    if isinstance(value, str):
        return re.sub(r"[ ,./\-_*^]", "", value).lower().replace("'", '"')
    if isinstance(value, list):
        return [_normal(part) for part in value]
    return ("truth", value) if isinstance(value, bool) else value


def _plain_name(name: str) -> str:
    """OpenAI's format has no dots in names."""
    return name.replace(".", "_")


def _wire(function: Row) -> Row:
    plain = {"name": _plain_name(function["name"]), "description": function["description"]}
    return {"type": "function", "function": plain | {"parameters": _schema(function["parameters"])}}


def _schema(part: Any) -> Any:
    """The declaration in JSON Schema's words; a parameter called `type` is a parameter."""
    if not isinstance(part, dict):
        return part
    found = {key: value for key, value in part.items() if (key, value) != ("type", "any")}
    if isinstance(kind := found.get("type"), str):
        found["type"] = TYPES.get(kind, kind)
    if isinstance(found.get("properties"), dict):
        found["properties"] = {name: _schema(value) for name, value in found["properties"].items()}
    return found | ({"items": _schema(found["items"])} if "items" in found else {})


def _gold(row: Row) -> Row:
    if "ground_truth" not in row:
        return answer(REFUSAL)
    calls = []
    for number, (name, given) in enumerate(_due(row)):
        function = {"name": name, "arguments": json.dumps(given, ensure_ascii=False)}
        calls.append({"id": f"functions.{name}:{number}", "type": "function", "function": function})
    return {"role": "assistant", "content": "", "tool_calls": calls}


def _due(row: Row) -> list[tuple[str, Row]]:
    """The calls with the first answer that is allowed to each parameter, without what may be left out."""
    calls = []
    for due in row["ground_truth"]:
        ((name, allowed),) = due.items()
        required = next(each for each in row["function"] if each["name"] == name)["parameters"].get("required", ())
        given = {key: _first(values) for key, values in allowed.items() if "" not in values or key in required}
        calls.append((_plain_name(name), given))
    return calls


def _first(values: list[Any]) -> Any:
    """The first answer; a dictionary, alone or in a list, has a list of answers to each of its keys."""
    first = next((each for each in values if each != ""), "")
    return [_chosen(each) for each in first] if isinstance(first, list) else _chosen(first)


def _chosen(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: next(iter(values), "") for key, values in value.items() if "" not in values}


def read_rows(folder: Path) -> list[Row]:
    """The data set's rows from its folder, categories in turn, so that all occur among the first.

    Rows whose own answers its rules fail are left out: no reply could pass.

    Raises:
        StorageError: a file is missing or torn, or a line lacks what its format has.
    """
    groups = []
    for category in CATEGORIES:
        path = _newest(folder, category)
        rows = [row | {"category": category} for row in read_lines(path)]
        if "irrelevance" not in category:
            answers = {row["id"]: row["ground_truth"] for row in read_lines(folder / "possible_answer" / path.name)}
            try:
                rows = [row | {"ground_truth": answers[row["id"]]} for row in rows]
            except KeyError as error:
                raise StorageError(f"{folder / 'possible_answer' / path.name}: no answer to {error}") from None
            rows = [row for row in rows if matches(_due(row), row)]
        groups.append(rows)
    return [row for turn in zip_longest(*groups) for row in turn if row is not None]


def _newest(folder: Path, category: str) -> Path:
    names = f"{category}|{PYTHON.get(category, category)}"
    found = [path for path in folder.glob("BFCL_v*.json") if re.fullmatch(rf"BFCL_v\d+_({names})\.json", path.name)]
    if not found:
        raise StorageError(f"{folder}: no file of category {category}; install bfcl-eval again")
    return max(found)


def make(data: Path | None) -> Bfcl:
    """The environment.

    Raises:
        StorageError: the package is not installed, or its files are not those of the data set.
    """
    spec = find_spec("bfcl_eval")
    for place in spec.submodule_search_locations or () if spec else ():
        return Bfcl(read_rows(Path(place) / "data"))
    raise StorageError("BFCL's items are not here; pip install --no-deps bfcl-eval (its code is not used)")
