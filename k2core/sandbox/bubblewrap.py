"""Sandboxes by bubblewrap (Debian's package): own mounts, processes, network and user, and a seccomp filter."""

from __future__ import annotations

import os

from k2core.sandbox.local import Local


class Bubblewrap(Local):
    """A sandbox that bubblewrap makes."""

    program = "bwrap"

    def _words(self, program: int) -> list[str]:
        words = [
            self.program,
            "--unshare-ipc",
            "--unshare-pid",
            "--unshare-net",
            "--unshare-uts",
            "--unshare-cgroup-try",
        ]
        if os.geteuid() == 0:
            words += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        else:
            words += ["--unshare-user", "--uid", "1000", "--gid", "1000"]
        words += ["--die-with-parent", "--new-session", "--hostname", "sandbox"]
        words += ["--perms", "0755", "--dir", "/"]  # else root's alone
        for step in self.steps():
            match step:
                case ("dir", path):
                    words += ["--perms", "0755", "--dir", path]
                case ("bind", path, source):
                    words += ["--ro-bind", source, path]
                case ("symlink", path, target):
                    words += ["--symlink", target, path]
                case ("device", path):
                    words += ["--dev-bind", path, path]
                case ("tmpfs", path, mode, size):
                    words += ["--size", size, "--perms", mode.zfill(4), "--tmpfs", path]
                case ("lock", path):
                    words += ["--remount-ro", path]
        return [*words, "--seccomp", str(program)]
