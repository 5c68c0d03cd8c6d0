"""Which sandbox this machine has: bubblewrap, else the kernel's namespaces, else none, and then no code is run."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import cache

from k2core.sandbox.base import Limits, SandboxError
from k2core.sandbox.bubblewrap import Bubblewrap
from k2core.sandbox.local import Local
from k2core.sandbox.namespaces import Namespaces

BACKENDS: tuple[type[Local], ...] = (Bubblewrap, Namespaces)
"""The first that works is used."""


@cache
def fault(backend: type[Local]) -> str:
    """Why a backend cannot run code here; empty if it can."""
    if not shutil.which(backend.program):
        return f"there is no {backend.program}"
    try:
        with backend(Limits(), {}) as sandbox:
            result = sandbox.exec(["python", "-c", "print('here')"])
    except (SandboxError, OSError) as error:
        return str(error)
    if result.stdout != b"here\n":
        return f"{backend.program} starts no interpreter ({result.stderr[-200:].decode('utf-8', 'replace').strip()})"
    return ""


def missing() -> str:
    """Why no code can be run here; empty if it can."""
    faults = []
    for backend in BACKENDS:
        if not (reason := fault(backend)):  # type: ignore[arg-type]  # mypy takes no class for hashable
            return ""
        faults.append(reason)
    why = "; ".join(faults)
    return f"no model-written code is run, as nothing here makes a sandbox: {why}; apt-get install bubblewrap"


def create(limits: Limits = Limits(), files: Mapping[str, bytes] | None = None, packages: Sequence[str] = ()) -> Local:
    """A new sandbox.

    Args:
        files: of its folder, path → content.
        packages: what the command can import beside the standard library, by import name.

    Raises:
        SandboxError: there is no safe way to run code here.
    """
    for backend in BACKENDS:
        if not fault(backend):  # type: ignore[arg-type]
            return backend(limits, files or {}, packages)
    raise SandboxError(missing())
