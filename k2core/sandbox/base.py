"""What a sandbox is: a folder of files, and commands that run in it within limits and see nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from k2core.stage import StageError

MIB = 2**20


class SandboxError(StageError):
    """No code can be run safely here, or a file has no such path; the message is one sentence."""


@dataclass(frozen=True)
class Limits:
    """What one command may use.

    Attributes:
        wall: seconds until everything it started is killed.
        cpu: seconds of a processor, per process.
        memory: bytes of address space, per process.
        processes: processes and threads at a time, the command's own included.
        open_files: per process.
        output: bytes of standard output and standard error together; what comes after them is not written.
        disk: bytes of the sandbox's files, and as many again of temporary ones.
    """

    wall: float = 10.0
    cpu: int = 10
    memory: int = 512 * MIB
    processes: int = 16
    open_files: int = 128
    output: int = MIB
    disk: int = 16 * MIB


@dataclass(frozen=True)
class Result:
    """What a command did.

    Attributes:
        status: its exit status; minus a signal's number if that ended it, and always if the time was up.
        timed_out: it was killed at `Limits.wall`.
        overflow: it filled the room for output or for files; what did not fit is lost.
    """

    status: int
    stdout: bytes
    stderr: bytes
    timed_out: bool = False
    overflow: bool = False

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode("utf-8", "replace")


class Sandbox(Protocol):
    """A backend's sandbox. Two of them share nothing; each may be used by one thread at a time."""

    def exec(self, command: Sequence[str], stdin: bytes = b"") -> Result:
        """Run a command in the folder of the files and wait for its end, and the end of all that it started.

        Args:
            command: words; the first one `python` is the interpreter that runs this project.

        Raises:
            SandboxError: the sandbox itself failed; what the command does is in the result.
        """

    def write_file(self, path: str, content: bytes) -> None:
        """Put a file in the folder."""

    def read_file(self, path: str) -> bytes:
        """A file of the folder as the last command left it.

        Raises:
            SandboxError: there is none.
        """

    def close(self) -> None:
        """Forget the files."""


def plain(path: str) -> str:
    """`path`, if it lies in the folder of the files.

    Raises:
        SandboxError: it is absolute, empty, or leads out of the folder.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\0" in path:
        raise SandboxError(f"{path[:80]!r} is no path of a sandbox's file; give one relative to its folder")
    return "/".join(parts)


def checked(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """`files` with plain paths."""
    return {plain(path): content for path, content in files.items()}
