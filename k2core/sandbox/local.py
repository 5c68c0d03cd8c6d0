"""Sandboxes of this machine: what its backends share.

Each command has namespaces of its own, which end with it. The files live here, in memory, between two commands, so a
killed parent leaves neither a folder nor a mount, and the kernel ends the sandbox with it. As root, the command's user
is a number that nobody has; otherwise a user namespace gives it one.
"""

from __future__ import annotations

import marshal
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from random import SystemRandom
from typing import Any, ClassVar, Self

from k2core.sandbox.base import Limits, Result, SandboxError, checked, plain
from k2core.sandbox.seccomp import program

RUNNER = Path(__file__).with_name("runner.py")
PACKAGES = "/packages"
BOOT = """import marshal, posix
for code, space in marshal.loads(posix.read(0, int.from_bytes(posix.read(0, 8), "little"))):
    exec(code, space)"""
"""Runs the code that standard input begins with."""
GRACE = 10.0
"""Seconds beyond the command's time until the sandbox as a whole is given up."""
DEVICES = ("null", "zero", "full", "random", "urandom")
USERS = range(2**30, 2**31)
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin", "HOME": "/work", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": PACKAGES,
}  # fmt: skip
Step = tuple[str, ...]
"""One step of making a sandbox's file system: `dir PATH`, `bind PATH SOURCE` (read-only), `symlink PATH TARGET`,
`device PATH`, `tmpfs PATH MODE SIZE`, `lock PATH` (read-only from now on)."""


class Local:
    """A `k2core.sandbox.base.Sandbox`. A backend says which words start it.

    Attributes:
        program: its first word, with which its complaints begin.
    """

    program: ClassVar[str]

    def __init__(self, limits: Limits, files: Mapping[str, bytes], packages: Sequence[str] = ()) -> None:
        self.limits, self.files, self.packages = limits, checked(files), tuple(packages)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def write_file(self, path: str, content: bytes) -> None:
        self.files[plain(path)] = content

    def read_file(self, path: str) -> bytes:
        try:
            return self.files[plain(path)]
        except KeyError:
            raise SandboxError(f"the sandbox has no file {path[:80]!r}") from None

    def close(self) -> None:
        self.files = {}

    def exec(self, command: Sequence[str], stdin: bytes = b"", keep: bool = True) -> Result:
        """As `Sandbox.exec`; with `keep` false the files stay as they were."""
        request = marshal.dumps(self._request(command, keep))
        status, answer, said = self._exchange(self._code() + len(request).to_bytes(8, "little") + request + stdin)
        frames, complaint = list(_frames(answer)), said[-300:].decode("utf-8", "replace")
        if status == -signal.SIGKILL:  # given up, or the command has stopped the runner
            return Result(status, b"", b"", timed_out=True)
        if len(frames) < 6:
            if status and complaint.startswith(self.program):
                raise SandboxError(f"{self.program} cannot make a sandbox: {complaint.strip()}")
            return Result(status or 1, b"", complaint.encode())
        ended, timed_out, overflow, out, err, gone, *changed = frames
        for path in gone.decode("utf-8", "surrogateescape").split("\0") if gone else []:
            self.files.pop(path, None)
        for name, content in zip(changed[::2], changed[1::2], strict=True):
            self.files[plain(name.decode("utf-8", "surrogateescape"))] = content
        return Result(int(ended), out, err, timed_out == b"1", overflow == b"1")

    def _exchange(self, message: bytes) -> tuple[int, bytes, bytes]:
        """Start a sandbox with `message` as its input; its status, and what it writes to output and error."""
        with ExitStack() as stack:
            given = stack.enter_context(_memory(message))
            answer, said = stack.enter_context(_memory()), stack.enter_context(_memory())
            return self._run(given, answer, said), _content(answer), _content(said)

    def _user(self) -> int | None:
        """The user that the runner makes of itself; none if it is one already."""
        return SystemRandom().choice(USERS) if os.geteuid() == 0 else None

    def _request(self, command: Sequence[str], keep: bool) -> dict[str, Any]:
        limits = self.limits
        return {
            "command": list(command), "files": self.files, "keep": keep, "wall": limits.wall, "output": limits.output,
            "disk": limits.disk,
            "packages": [PACKAGES] if self.packages else [],
            "user": self._user(),
            "limits": {
                "RLIMIT_CPU": limits.cpu, "RLIMIT_AS": limits.memory, "RLIMIT_NPROC": limits.processes,
                "RLIMIT_NOFILE": limits.open_files, "RLIMIT_FSIZE": limits.disk, "RLIMIT_CORE": 0,
            },
        }  # fmt: skip

    def _run(self, given: int, answer: int, said: int) -> int:
        """Start the backend and wait for its end; its status."""
        readable, writable = os.pipe()
        try:
            os.write(writable, program())  # a filter is smaller than a pipe's buffer
            os.close(writable)
            process = subprocess.Popen(
                [*self._words(readable), *interpreter()], pass_fds=[readable], env=ENVIRONMENT, cwd="/",
                stdin=given, stdout=answer, stderr=said,
            )  # fmt: skip
        finally:
            os.close(readable)
        handle = os.pidfd_open(process.pid)
        try:
            ended = select.poll()
            ended.register(handle, select.POLLIN)
            if not ended.poll((self.limits.wall + GRACE) * 1000):
                process.kill()
            return process.wait()
        finally:
            os.close(handle)
            if process.returncode is None:  # interrupted
                process.kill()
                process.wait()

    def _words(self, program: int) -> list[str]:
        """The command that makes a sandbox and runs in it what follows; `program` is the file of the filter."""
        raise NotImplementedError

    def _code(self) -> bytes:
        """What runs in it, behind 8 bytes of its length: the runner."""
        return _RUNNER

    def steps(self) -> list[Step]:
        """How its file system is made, from an empty one."""
        disk, output = str(self.limits.disk), str(self.limits.output)
        made: list[Step] = [*_common(), ("tmpfs", "/work", "1777", disk), ("tmpfs", "/tmp", "1777", disk)]
        made.append(("tmpfs", "/out", "700", output))
        for place in map(_place, self.packages):
            made.append(("bind", f"{PACKAGES}/{place.name}", str(place)))
        return [*made, ("lock", "/")]


@cache
def _place(name: str) -> Path:
    """Where a package or a module is.

    Raises:
        SandboxError: it is not installed.
    """
    spec = find_spec(name)
    if spec is None or not spec.origin:
        raise SandboxError(f"no package {name} to give to a sandbox; install it")
    origin = Path(spec.origin)
    place = origin.parent if spec.submodule_search_locations else origin
    return place.parent.resolve() / place.name  # a link on the way would lead out of the sandbox's own root


@cache
def _common() -> tuple[Step, ...]:
    """The steps that all sandboxes share."""
    above = [*reversed(Path(sys.base_prefix).parents)][1:]
    made: list[Step] = [("dir", str(each)) for each in ("/usr", *above, PACKAGES)]
    made += [("bind", place, place) for place in ("/usr/lib", "/usr/bin")]
    for place in ("/lib", "/lib64", "/bin", "/usr/lib64"):
        if os.path.islink(place):
            made.append(("symlink", place, os.readlink(place)))
        elif os.path.isdir(place):
            made.append(("bind", place, place))
    if os.path.exists("/etc/ld.so.cache"):
        made += [("dir", "/etc"), ("bind", "/etc/ld.so.cache", "/etc/ld.so.cache")]
    if sys.base_prefix != "/usr":
        made.append(("bind", sys.base_prefix, sys.base_prefix))
    made.append(("tmpfs", "/dev", "755", str(2**16)))
    made += [("device", f"/dev/{device}") for device in DEVICES]
    return (*made, ("lock", "/dev"))


@cache
def interpreter() -> tuple[str, ...]:
    """Without `site`, which takes longer than the rest of the start; without the script's folder on the path."""
    return os.path.realpath(sys.executable), "-S", "-s", "-P", "-B", "-c", BOOT


def packed(*parts: tuple[Path, Mapping[str, Any]], compiled: bool = True) -> bytes:
    """Files of code, each with what it finds in its name space, behind 8 bytes of length.

    Args:
        compiled: for this interpreter; else as text, for any.
    """

    def code_of(path: Path) -> Any:
        return compile(path.read_text(), f"/{path.name}", "exec") if compiled else path.read_text()

    code = marshal.dumps([(code_of(path), dict(given)) for path, given in parts], 4)
    return len(code).to_bytes(8, "little") + code


_RUNNER = packed((RUNNER, {}))


@contextmanager
def _memory(content: bytes = b"") -> Iterator[int]:
    """A file without a name, at its beginning."""
    file = os.memfd_create("sandbox")
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(file, view) :]
        os.lseek(file, 0, os.SEEK_SET)
        yield file
    finally:
        os.close(file)


def _content(file: int) -> bytes:
    size = os.fstat(file).st_size
    return os.pread(file, size, 0) if size else b""


def _frames(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 8], "little")
        yield data[at + 8 : at + 8 + size]
        at += 8 + size
