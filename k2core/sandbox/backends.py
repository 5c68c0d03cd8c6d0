"""Which sandboxes there are: a cluster's, if the recipe says so; else this machine's, by bubblewrap or the kernel's
namespaces. Where there is none, no code is run.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import cache

from k2core.sandbox.base import Limits, SandboxError
from k2core.sandbox.bubblewrap import Bubblewrap
from k2core.sandbox.config import Cluster, SandboxConfig, chosen
from k2core.sandbox.local import Local
from k2core.sandbox.namespaces import Namespaces

BACKENDS: tuple[type[Local], ...] = (Bubblewrap, Namespaces)
"""Of this machine; the first that works is used."""


@cache
def fault(backend: type[Local]) -> str:
    """Why a backend of this machine cannot run code; empty if it can."""
    if not shutil.which(backend.program):
        return f"there is no {backend.program}"
    return _trial(backend(Limits(), {}))


def missing(config: SandboxConfig | None = None) -> str:
    """Why no code can be run where `config` says (default: where this process runs it); empty if it can."""
    config = config or chosen()
    if config.kubernetes:
        reason = _trial(_pod(config.kubernetes, Limits(), {}, ()))
        return f"no model-written code is run: {reason}; see sandbox.kubernetes in the recipe" if reason else ""
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
    if cluster := chosen().kubernetes:
        return _pod(cluster, limits, files or {}, packages)
    for backend in BACKENDS:
        if not fault(backend):  # type: ignore[arg-type]
            return backend(limits, files or {}, packages)
    raise SandboxError(missing())


def _pod(cluster: Cluster, limits: Limits, files: Mapping[str, bytes], packages: Sequence[str]) -> Local:
    from k2core.sandbox.kubernetes import Kubernetes

    return Kubernetes(
        limits, files, packages,
        image=cluster.image, namespace=cluster.namespace, runtime=cluster.runtime_class,
    )  # fmt: skip


def _trial(sandbox: Local) -> str:
    """Why a sandbox starts no interpreter; empty if it does."""
    try:
        with sandbox:
            result = sandbox.exec(["python", "-c", "print('here')"])
    except (SandboxError, OSError) as error:
        return str(error)
    if result.stdout != b"here\n":
        said = result.stderr[-200:].decode("utf-8", "replace").strip()
        return f"{sandbox.program} starts no interpreter ({said})"
    return ""
