"""What a stage tells of its outputs when they are in place: their files, and a preview of those that are not copied.

MLflow gets small texts as they are. Everything else stays DVC's: MLflow gets a page with what is in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

SMALL = 2**20
"""Most bytes of a file that MLflow gets a copy of."""
TEXTS = (".csv", ".jinja", ".json", ".jsonl", ".md", ".svg", ".txt", ".yaml")
PAGES, PAGE = (".html", ".png"), 2**24
"""What is made to be looked at, and most bytes of it that are copied."""
MOST_FILES, MOST_PREVIEWS = 200, 20
"""Most files of an output that are listed, and that are looked into."""
ROWS, CELL = 10, 300
"""Rows of a preview, and characters of a cell."""
Preview = dict[str, Any]
"""`about`: a sentence, `columns`: their names, `rows`: lists of texts."""


def described(path: Path) -> dict[str, Any]:
    """An output: `path`, `bytes`, `count` (of files), and `files`, each with `path`, `bytes` and, if a copy is wanted,
    `changed` (when, in ns) or else, for the first, its `preview`.
    """
    found = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    stats = [file.stat() for file in found]
    files, looked = [], 0
    for file, about in zip(found[:MOST_FILES], stats, strict=False):
        entry: dict[str, Any] = {"path": str(file), "bytes": about.st_size}
        if is_copied(file.suffix, about.st_size):
            entry["changed"] = about.st_mtime_ns
        elif looked < MOST_PREVIEWS:
            entry["preview"], looked = preview(file), looked + 1
        files.append(entry)
    size = sum(about.st_size for about in stats)
    return {"path": str(path), "bytes": size, "count": len(found), "files": files}


def is_copied(suffix: str, size: int) -> bool:
    """Whether MLflow gets a copy of a file."""
    return (suffix in TEXTS and size <= SMALL) or (suffix in PAGES and size <= PAGE)


def preview(file: Path) -> Preview:
    """What is in a file: its schema and first rows. A file of which nothing can be said has only its first bytes."""
    makers: dict[str, Callable[[Path], Preview]] = {
        ".parquet": _parquet, ".jsonl": _json_lines, ".safetensors": _tensors
    }  # fmt: skip
    maker = makers.get(file.suffix, _text if file.suffix in TEXTS else _bytes)
    try:
        return maker(file)
    except Exception as error:  # noqa: BLE001 (the stage has succeeded: its output's reader will say what is wrong)
        return {"about": f"no preview: {type(error).__name__}: {error}", "columns": [], "rows": []}


def _parquet(file: Path) -> Preview:
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as table:
        batch = next(table.iter_batches(batch_size=ROWS), None)
        rows = batch.to_pylist() if batch else []
        schema = table.schema_arrow
        return {
            "about": f"{table.metadata.num_rows:,} rows",
            "columns": [f"{name}: {kind}" for name, kind in zip(schema.names, schema.types, strict=True)],
            "rows": [[_cell(value) for value in row.values()] for row in rows],
        }


def _json_lines(file: Path) -> Preview:
    rows = [json.loads(line) for line in _first_lines(file)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    return {
        "about": "the first lines",
        "columns": names,
        "rows": [[_cell(row.get(name, "")) for name in names] for row in rows],
    }


def _tensors(file: Path) -> Preview:
    """The header of safetensors: its length in 8 bytes, then JSON."""
    with file.open("rb") as source:
        length = int.from_bytes(source.read(8), "little")
        header = json.loads(source.read(length))
    header.pop("__metadata__", None)
    return {
        "about": f"{len(header)} tensors",
        "columns": ["tensor", "dtype", "shape"],
        "rows": [[name, entry["dtype"], str(entry["shape"])] for name, entry in header.items()][:MOST_FILES],
    }


def _text(file: Path) -> Preview:
    return {"about": "the first lines", "columns": ["text"], "rows": [[_cell(line)] for line in _first_lines(file)]}


def _bytes(file: Path) -> Preview:
    with file.open("rb") as source:
        return {"about": "the first bytes", "columns": ["bytes"], "rows": [[source.read(32).hex(" ")]]}


def _first_lines(file: Path) -> Iterator[str]:
    with file.open(encoding="utf-8") as lines:
        yield from islice(lines, ROWS)


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= CELL else text[: CELL - 1] + "…"
