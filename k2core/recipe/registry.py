"""The modules of a kind, found by folder: a new one is a new file, which nothing else has to name."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def modules_in(package: str) -> dict[str, ModuleType]:
    """The modules of `package` by name, in alphabetical order.

    `stages.closure` counts every file of the folder as a dependency of whoever calls this with the package's name.
    """
    folder = importlib.import_module(package)
    names = sorted(info.name for info in pkgutil.iter_modules(folder.__path__))
    return {name: importlib.import_module(f"{package}.{name}") for name in names}
