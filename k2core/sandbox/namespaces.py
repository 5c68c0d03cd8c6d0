"""Sandboxes by the kernel's namespaces alone: `unshare` and `setpriv` of util-linux, which every Linux has.

The same namespaces, mounts, users, filter and limits as bubblewrap's; `jail.py` makes the mounts from inside.
"""

from __future__ import annotations

import os
from pathlib import Path

from k2core.sandbox.local import RUNNER, Local, packed
from k2core.sandbox.seccomp import program as filter_program

JAIL = Path(__file__).with_name("jail.py")


class Namespaces(Local):
    """A sandbox that `unshare` makes; Linux 5.12 and later."""

    program = "unshare"

    def _words(self, program: int) -> list[str]:
        words = ["setpriv", "--pdeathsig", "KILL", self.program]
        if os.geteuid():
            words += ["--user", "--map-user=1000", "--map-group=1000", "--keep-caps"]
        return [*words, "--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--fork", "--kill-child", "--"]

    def _code(self) -> bytes:
        plan = (self.steps(), filter_program(), os.geteuid() == 0)
        return packed((JAIL, {"PLAN": plan}), (RUNNER, {}))
