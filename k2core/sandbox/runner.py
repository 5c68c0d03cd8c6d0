"""The first process in a sandbox: puts the files there, runs the command within its limits, and tells what came of it.

A bare interpreter gets it compiled, so it imports nothing of the project, and little else: its start is most of what a
short execution costs. `_signal` is `signal` without `enum`, whose import takes as long as an interpreter's start.
Standard input is a request (8 bytes of length, then `marshal`), followed by the command's own input. Standard output is
the answer: byte strings, each behind 8 bytes of length.

A command that begins with `python` runs in a fork of this interpreter, which saves the start of another one.
"""

from __future__ import annotations

import _sitebuiltins
import builtins
import marshal
import os
import resource
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
else:
    import _signal as signal

FILES, OUTPUT = "/work", "/out"
MOST_FILES, LONGEST = 10_000, 4000


def read(size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(0, size - len(data)) or sys.exit("the request is torn")
    return data


def unpack(files: dict) -> None:
    made = set()
    for path, content in files.items():
        folder = os.path.dirname(path)
        if folder not in made:
            os.makedirs(os.path.join(FILES, folder), exist_ok=True)
            made.add(folder)
        file = os.open(os.path.join(FILES, path), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        while content:
            content = content[os.write(file, content) :]
        os.close(file)


def collect(before: dict, room: int) -> tuple[dict, list, bool]:
    """Changed files, the names of deleted ones, and whether it is too much; links and pipes are left out.

    Sparse files say that they are larger than their room.
    """
    changed, gone, folders, count = {}, dict.fromkeys(before), [""], 0
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(os.path.join(FILES, folder)))
        except OSError:  # made unreadable
            continue
        for entry in entries:
            path = os.path.join(folder, entry.name)
            count += 1
            if count > MOST_FILES:
                return {}, [], True
            if len(path) > LONGEST:
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif entry.is_file(follow_symlinks=False):
                gone.pop(path, None)
                room -= entry.stat(follow_symlinks=False).st_size
                if room < 0:
                    return {}, [], True
                content = content_of(os.path.join(FILES, path))
                if content is not None and content != before.get(path):
                    changed[path] = content
    return changed, list(gone), False


def content_of(path: str) -> bytes | None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:  # made unreadable
        return None
    with open(file, "rb") as opened:
        return opened.read()


def become(request: dict, out: int, err: int) -> Callable[[], object]:
    """From here on the process is the command's. Returns the code to run, or does not return."""
    limits = request["limits"]
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.closerange(3, 64)
    user = request["user"]
    if user is not None:
        os.seteuid(0)
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    for name, value in limits.items():
        resource.setrlimit(getattr(resource, name), (value, value))
    words = request["command"]
    if words[0] != "python":
        os.execvp(words[0], words)
    return python(words[1:])


def python(words: list) -> Callable[[], object]:
    """The code of a `python` command line: a script, `-c` or `-m`."""
    main = sys.modules["__main__"] = type(sys)("__main__")
    if words[0] == "-m":
        import runpy

        sys.argv, sys.path[:0] = words[1:], [FILES]
        return lambda: runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    if words[0] == "-c":
        sys.argv, sys.path[:0], source, name = ["-c", *words[2:]], [FILES], words[1], "<string>"
    else:
        path = os.path.join(FILES, words[0])
        sys.argv, sys.path[:0], name = words, [os.path.dirname(path)], path
        with open(path, "rb") as file:
            source = file.read()
        main.__file__ = path
    return lambda: exec(compile(source, name, "exec"), main.__dict__)


def wait(child: int, seconds: float) -> tuple[int, bool]:
    """The status of the child, and whether the time was up before its end."""
    deadline = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        left = deadline - time.monotonic()
        if done or left <= 0:
            break
        signal.sigtimedwait({signal.SIGCHLD}, left)
    try:
        os.kill(-1, signal.SIGKILL)  # all that the command has started, wherever it went
    except ProcessLookupError:  # there is nothing left, and `contextlib` takes long to import
        return os.waitstatus_to_exitcode(status), False
    if not done:
        os.waitpid(child, 0)
        return -signal.SIGKILL, True
    return os.waitstatus_to_exitcode(status), False


def main() -> Callable[[], object]:
    request = marshal.loads(read(int.from_bytes(read(8), "little")))
    answer = os.dup(1)
    out, err = (os.open(OUTPUT, os.O_TMPFILE | os.O_RDWR, 0o600) for _ in range(2))
    os.set_inheritable(out, True)
    if request["user"] is not None:
        os.setegid(request["user"])
        os.seteuid(request["user"])
    sys.path += request["packages"]
    builtins.exit = builtins.quit = _sitebuiltins.Quitter("exit", "Ctrl-D")  # what `site` adds, which takes long
    unpack(request["files"])
    os.chdir(FILES)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    child = os.fork()
    if not child:
        return become(request, out, err)
    status, timed_out = wait(child, request["wall"])
    changed, gone, overflow = collect(request["files"], request["disk"]) if request["keep"] else ({}, [], False)
    room = os.fstatvfs(out).f_bfree, os.statvfs(FILES).f_bfree
    frames = [b"%d" % status, b"%d" % timed_out, b"%d" % (overflow or 0 in room)]
    for file in (out, err):
        os.lseek(file, 0, os.SEEK_SET)
        with open(file, "rb") as opened:
            frames.append(opened.read(request["output"]))
    frames.append("\0".join(gone).encode("utf-8", "surrogateescape"))
    for path, content in changed.items():
        frames += [path.encode("utf-8", "surrogateescape"), content]
    with open(answer, "wb") as opened:
        opened.write(b"".join(len(frame).to_bytes(8, "little") + frame for frame in frames))
    os._exit(0)


code = main()
code()
