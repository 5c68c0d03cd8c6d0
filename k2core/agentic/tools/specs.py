"""What a tool is: name, description, JSON Schema of its parameters, and the operation a simulator executes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from k2core.storage import StorageError, read_lines, write_lines


@dataclass(frozen=True)
class ToolSpec:
    """One tool. `operation` is None for a tool of a real server, which executes it (`origin` names the server)."""

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


def write_tools(path: Path, tools: Iterable[ToolSpec]) -> int:
    """Write `tools.jsonl`."""
    return write_lines(path, (asdict(tool) for tool in tools))


def read_tools(path: Path) -> dict[str, ToolSpec]:
    """The tools of `tools.jsonl` by name.

    Raises:
        StorageError: missing, torn, or a line that is not a tool.
    """
    try:
        return {row["name"]: ToolSpec(**row) for row in read_lines(path)}
    except (TypeError, KeyError) as error:
        raise StorageError(f"{path}: a line is not a tool ({error}); re-run the stage `tools`") from None
