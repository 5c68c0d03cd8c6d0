"""Programs need a sandbox to run in, and files and packages that are there."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from k2core.sandbox.config import SandboxConfig
from stages.programs import Params as Programs


def a_sandbox(programs: Programs, sandbox: SandboxConfig) -> Iterator[str]:
    from k2core.sandbox.backends import missing

    if (programs.problems or programs.packages) and (reason := missing(sandbox)):
        yield f"programs: {reason}"


def files_and_packages(programs: Programs) -> Iterator[str]:
    for name, file in programs.problems.items():
        if file.path and not Path(file.path).is_file():
            yield f"programs.problems.{name}.path = {file.path!r}: no such file"
        if not file.path and file.format != "humaneval":
            yield f"programs.problems.{name}.path: give the file; only humaneval comes as a package"
    for name in programs.packages:
        if find_spec(name) is None:
            yield f"programs.packages.{name}: no such package is installed"
