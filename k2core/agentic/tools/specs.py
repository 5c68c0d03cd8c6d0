"""What a tool is: name, description, JSON Schema of its parameters, and the operation a simulator executes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from k2core.storage import StorageError, write_text


@dataclass(frozen=True)
class ToolSpec:
    """One tool. `operation` is None for a tool of a real server, which executes itself (`origin` says which)."""

    name: str
    description: str
    parameters: dict[str, Any]
    domain: str
    category: str
    origin: str
    operation: dict[str, Any] | None
    split: str

    @property
    def semantics(self) -> dict[str, Any]:
        """The operation of a tool that has one.

        Raises:
            ValueError: a tool of a real server.
        """
        if self.operation is None:
            raise ValueError(f"{self.name} ({self.origin}) has no operation to simulate")
        return self.operation

    def wire(self) -> dict[str, Any]:
        """In OpenAI's format."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write JSON lines, atomically; returns their number."""
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows]
    write_text(path, "".join(line + "\n" for line in lines))
    return len(lines)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines.

    Raises:
        StorageError: missing or torn.
    """
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file; run the stage that makes it (`dvc repro`)") from None
    except ValueError as error:
        raise StorageError(f"{path}: not JSON lines ({error}); delete it and re-run its stage") from None


def write_tools(path: Path, tools: Iterable[ToolSpec]) -> int:
    """Write `tools.jsonl`."""
    return write_lines(path, (asdict(tool) for tool in tools))


def read_tools(path: Path) -> dict[str, ToolSpec]:
    """The tools of `tools.jsonl` by name.

    Raises:
        StorageError: missing, torn, or a line that is no tool.
    """
    try:
        return {row["name"]: ToolSpec(**row) for row in read_lines(path)}
    except (TypeError, KeyError) as error:
        raise StorageError(f"{path}: a line is not a tool ({error}); re-run the stage `tools`") from None
