"""The environments by name: the modules of `k2core/gym/environments`, and the tool tasks (`tool_call.py`)."""

from __future__ import annotations

from k2core.gym.base import Environment
from k2core.recipe import modules_in


def text_environments() -> dict[str, Environment]:
    """The environments that need no files."""
    made = (module.make() for module in modules_in("k2core.gym.environments").values())
    return {environment.name: environment for environment in made}


def select(environments: dict[str, Environment], names: dict[str, int], where: str) -> dict[str, int]:
    """`names` as given, checked.

    Raises:
        ValueError: a name is not an environment.
    """
    unknown = sorted(set(names) - set(environments))
    if unknown:
        raise ValueError(f"{where}: no environment {', '.join(unknown)}; there are {', '.join(sorted(environments))}")
    return names
