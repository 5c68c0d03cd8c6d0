"""The environments by name. A new one is a file in this folder and a line here."""

from __future__ import annotations

from pathlib import Path

from k2core.gym.base import Environment
from k2core.gym.count_letters import CountLetters
from k2core.gym.pick_largest import PickLargest
from k2core.gym.reasoning import spell_backward
from k2core.gym.sort_numbers import SortNumbers


def text_environments() -> dict[str, Environment]:
    """Those that need no files."""
    environments = [SortNumbers(), PickLargest(), CountLetters(), spell_backward()]
    return {environment.name: environment for environment in environments}


def all_environments(tasks: Path) -> dict[str, Environment]:
    """Those and the tool tasks of folder `tasks`."""
    from k2core.gym.tool_call import ToolCall

    tool_call = ToolCall.load(tasks)
    return text_environments() | {tool_call.name: tool_call}


def select(environments: dict[str, Environment], names: dict[str, int], where: str) -> dict[str, int]:
    """`names` as given, checked.

    Raises:
        ValueError: a name is no environment.
    """
    unknown = sorted(set(names) - set(environments))
    if unknown:
        raise ValueError(f"{where}: no environment {', '.join(unknown)}; there are {', '.join(sorted(environments))}")
    return names
