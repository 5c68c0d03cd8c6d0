"""JSON lines: one JSON object per line. Only this module reads and writes the project's own.

Only a newline ends a line. `str.splitlines` would also cut at the other line separators of Unicode, which JSON
allows inside strings.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from k2core.storage.atomic import write_text
from k2core.storage.parquet import StorageError
from k2core.storage.parse import parse_json

Row = dict[str, Any]


def write_lines(path: Path, rows: Iterable[Row]) -> int:
    """Write `rows`, atomically; returns their number."""
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows]
    write_text(path, "".join(line + "\n" for line in lines))
    return len(lines)


def read_lines(path: Path, columns: Iterable[str] = ()) -> list[Row]:
    """The rows of a JSON-lines file.

    Args:
        columns: keys that every row must have.

    Raises:
        StorageError: the file is missing or torn, or a row lacks a column; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file; `dvc repro {path.parent}` makes it") from None
    except UnicodeDecodeError as error:
        raise StorageError(f"{path}: not UTF-8 ({error.reason}); `dvc repro -f {path.parent}` makes it again") from None
    again = f"`dvc repro -f {path.parent}` makes it again"
    rows = []
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], 1):
        try:
            row = parse_json(line)
        except ValueError as error:
            raise StorageError(f"{path}:{number}: not JSON ({error}); {again}") from None
        if missing := [name for name in columns if name not in row]:
            raise StorageError(f"{path}:{number}: no {', '.join(missing)}; {again}")
        rows.append(row)
    return rows
