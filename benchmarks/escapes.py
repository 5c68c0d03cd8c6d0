"""What hostile code tries in a sandbox, and what comes of it: the table of docs/sandbox.md, and the tests' list.

Every attack says `TRIED` when it begins and `BREACH` if it succeeds; its last line is what stopped it.
"""

# ruff: noqa: E501  (scripts)

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import dedent

import psutil

from k2core.sandbox.base import MIB, Limits, Result, SandboxError
from k2core.sandbox.local import Local

LIMITS = Limits(wall=4.0, cpu=3, output=MIB // 4, disk=4 * MIB)
TRIED, BREACH = b"TRIED", b"BREACH"
MARK = "k2-escapee"
"""In the command line of what tries to outlive its sandbox."""
HELP = """
import ctypes, errno, os, platform, signal, sys, time
libc = ctypes.CDLL(None, use_errno=True)
NUMBERS = dict(zip(
    "ptrace mount pivot_root unshare clone clone3 setns keyctl add_key io_uring_setup bpf perf_event_open userfaultfd "
    "memfd_create process_vm_readv kcmp shmget chroot".split(),
    (101, 165, 155, 272, 56, 435, 308, 250, 248, 425, 321, 298, 323, 319, 310, 312, 29, 161)
    if platform.machine() == "x86_64" else
    (117, 40, 41, 97, 220, 435, 268, 219, 217, 425, 280, 241, 282, 279, 270, 272, 194, 51)))

def call(name, *arguments):
    done = libc.syscall(NUMBERS[name], *arguments)
    return f"{name}: {errno.errorcode[ctypes.get_errno()]}" if done == -1 else "BREACH " + name

def attempt(*actions):
    for action in actions:
        try:
            action()
            print("BREACH")
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
    print(said)

print("TRIED", flush=True)
"""


@dataclass(frozen=True)
class Attack:
    """A script, after `HELP`; `SECRET` in it is the path of a file outside that anyone may read."""

    name: str
    code: str

    def script(self, secret: Path) -> bytes:
        return (HELP + dedent(self.code).replace("SECRET", repr(str(secret)))).encode()


ATTACKS = tuple(
    Attack(name, code)
    for name, code in {
        "read a file outside": "attempt(lambda: open(SECRET).read())",
        "read /root, /etc/passwd and /proc": """
            attempt(*[lambda p=p: open(p).read() for p in
                ("/etc/passwd", "/etc/shadow", "/proc/self/environ", "/proc/1/cmdline", "/root/.bashrc")],
                lambda: os.listdir("/proc"), lambda: os.listdir("/home"))""",
        "read the environment of the parent": """
            found = [name for name in os.environ if name.startswith(("K2_", "AWS_", "MLFLOW_"))]
            print("BREACH" if found else f"has {', '.join(sorted(os.environ))}")""",
        "read the runner's room": "attempt(lambda: os.listdir('/out'), lambda: open('/out/x', 'w')) if os.getuid() != 1000 "
        "else print('its own user: empty, and gone with it')",
        "write outside": """
            attempt(*[lambda p=p: open(p, "w") for p in
                ("/x", "/usr/bin/python3", "/usr/lib/x", "/runner.py", "/dev/x", "/etc/x", sys.base_prefix + "/x")])""",
        "a symbolic link to a file outside": "os.symlink(SECRET, 'link'); attempt(lambda: open('link').read())",
        "a hard link to a file outside": "attempt(lambda: os.link('/runner.py', 'hard'), lambda: os.link(SECRET, 'hard'))",
        "leave by ..": "attempt(lambda: open('../../../../..' + SECRET).read())",
        "sockets of all families": """
            import socket
            attempt(*[lambda f=f, t=t: socket.socket(f, t) for f in range(1, 46) for t in (1, 2, 3)])""",
        "a fork bomb": """
            made = 0
            try:
                while made < 5000:
                    if os.fork() == 0:
                        while True:
                            try: os.fork()
                            except OSError: time.sleep(1)
                    made += 1
                print("BREACH")
            except OSError as error:
                print(f"after {made < 200 and 'few' or 'BREACH'} processes: {error}")""",
        "a thread bomb": """
            import threading
            made = 0
            try:
                while made < 5000:
                    threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); made += 1
                print("BREACH")
            except RuntimeError as error:
                print(error, flush=True); os._exit(3)""",
        "2 GiB of memory": "attempt(lambda: bytearray(2**31))",
        "2 GiB of memory in shared pages": "import mmap; attempt(lambda: mmap.mmap(-1, 2**31))",
        "2 GiB in one file": """
            def write():
                with open("large", "wb") as file:
                    for _ in range(2048): file.write(bytes(2**20))
            attempt(write)""",
        "2 GiB in many files": """
            def write():
                for number in range(2048): open(f"/tmp/{number}", "wb").write(bytes(2**20))
            attempt(write)""",
        "files that are larger than their room": """
            for number in range(64):
                with open(f"sparse{number}", "wb") as file: file.truncate(2**22)
            print("written as holes; none is read back")""",
        "100,000 files": """
            for number in range(100_000): open(f"f{number}", "w").close()
            print("written; none is read back")""",
        "1 GiB of output": """
            def write():
                for _ in range(1024): sys.stdout.write("x" * 2**20)
            attempt(write)""",
        "signals to the parent": """
            attempt(*[lambda p=p, s=s: os.kill(p, s) for p in (os.getppid(), 1) for s in (signal.SIGTERM, 9)
                if p != 1 or os.getuid() != 1000])""",
        "stop the parent": "attempt(lambda: os.kill(os.getppid(), signal.SIGSTOP))\ntime.sleep(60)",
        "ptrace": "print(call('ptrace', 16, os.getppid(), 0, 0)); print(call('ptrace', 0, 0, 0, 0))",
        "read another process's memory": """
            print(call("process_vm_readv", os.getppid(), 0, 0, 0, 0, 0)); print(call("kcmp", os.getpid(), os.getppid(), 0, 0, 0))
            attempt(lambda: open(f"/proc/{os.getppid()}/mem", "rb"))""",
        "mount": "print(call('mount', b'none', b'/work', b'tmpfs', 0, 0)); print(call('pivot_root', b'/work', b'/work'))",
        "chroot": "print(call('chroot', b'/work'))",
        "new namespaces": """
            for flag in (0x10000000, 0x00020000, 0x20000000, 0x40000000):
                print(call("unshare", flag)); print(call("clone", flag | 17, 0, 0, 0, 0))
            print(call("clone3", 0, 0)); print(call("setns", 0, 0))""",
        "become root": """
            attempt(lambda: os.setuid(0), lambda: os.seteuid(0), lambda: os.setgid(0), lambda: os.setgroups([0]))""",
        "a setuid program": """
            import subprocess
            done = subprocess.run(["/usr/bin/su", "-c", "id"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
            print("BREACH" if "uid=0" in done.stdout else f"su ends with {done.returncode}")""",
        "a daemon that outlives": f"""
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    os.execv(sys.executable, [sys.executable, "-S", "-c", "import time; time.sleep(60)", "{MARK}"])
            print("it ends with the sandbox")""",
        "set the clock": "attempt(lambda: time.clock_settime(time.CLOCK_REALTIME, 0))",
        "wait for ever": "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('killed at its time')\nwhile True: time.sleep(1)",
        "turn for ever": "print('killed at its time')\nwhile True: pass",
        "lie about time": "time.time = time.monotonic = lambda: 0.0\nprint('only to itself')\ntime.sleep(60)",
        "/dev/shm and other devices": """
            attempt(lambda: open("/dev/shm/x", "w"), lambda: open("/dev/mem", "rb"), lambda: open("/dev/kmsg"),
                lambda: open("/dev/fuse"), lambda: os.mknod("/work/d", 0o60666, os.makedev(8, 0)))""",
        "kernel keyrings": "print(call('add_key', b'user', b'k', b'v', 1, -3)); print(call('keyctl', 0, -3, 1))",
        "memory beside all limits": "print(call('memfd_create', b'm', 0)); print(call('shmget', 0, 2**31, 0o1666))",
        "io_uring, BPF, perf, userfaultfd": """
            for name in ("io_uring_setup", "bpf", "perf_event_open", "userfaultfd"): print(call(name, 1, 0, 0, 0, 0))""",
        "raise its limits": """
            import resource
            attempt(*[lambda n=n: resource.setrlimit(n, (10**9, 10**9)) for n in
                (resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE, resource.RLIMIT_CPU)])""",
        "deep recursion": """
            sys.setrecursionlimit(10**9)
            print("ended by itself", flush=True)
            def deeper(n): return [deeper(n + 1)]
            deeper(0)""",
        "files left open by others": """
            found = []
            for file in range(3, 1024):
                try: os.fstat(file); found.append(file)
                except OSError: pass
            print(f"BREACH {found}" if found else "none")""",
        "type into a terminal": "import fcntl, termios\nattempt(lambda: fcntl.ioctl(0, termios.TIOCSTI, b'x'), lambda: open('/dev/tty'))",
    }.items()
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """What came of an attack: `outcome` in words; `breach` says what it reached, empty if nothing."""

    name: str
    backend: str
    outcome: str
    breach: str
    seconds: float


def escapes(backend: type[Local], workers: int = 8) -> list[Found]:
    """Run all attacks in sandboxes of a backend, `workers` at a time.

    Raises:
        SandboxError: no code can be run safely here.
    """
    with _secret() as secret:
        with ThreadPoolExecutor(workers) as pool:
            found = list(pool.map(lambda attack: _one(backend, attack, secret), ATTACKS))
    alive = [each.pid for each in psutil.process_iter(["cmdline"]) if MARK in (each.info["cmdline"] or [])]
    return [
        replace(each, breach=f"{len(alive)} processes live on") if alive and "daemon" in each.name else each
        for each in found
    ]


def _one(backend: type[Local], attack: Attack, secret: Path) -> Found:
    started = time.monotonic()
    with backend(LIMITS, {"main.py": attack.script(secret)}) as sandbox:
        result = sandbox.exec(["python", "main.py"])
        breach = _breach(result, secret)
        try:
            if secret.read_bytes() in sandbox.read_file("link"):
                breach = "the link was followed"
        except SandboxError:
            pass  # links are not taken along
        if sum(map(len, sandbox.files.values())) > LIMITS.disk:
            breach = "more files than there is room for"
    return Found(attack.name, backend.program, _words(result), breach, time.monotonic() - started)


def _breach(result: Result, secret: Path) -> str:
    if TRIED not in result.stdout and result.status != -9:
        return f"it did not begin: {result.stderr[-200:].decode('utf-8', 'replace')}"
    for line in (result.stdout + result.stderr).splitlines():
        if BREACH in line or secret.read_bytes() in line:
            return line.decode("utf-8", "replace")[:200]
    return "more output than there is room for" if len(result.stdout) + len(result.stderr) > 2 * LIMITS.output else ""


def _words(result: Result) -> str:
    lines = [line for line in result.text.splitlines() if line.strip() and line != "TRIED"]
    said = lines[-1] if lines else ""
    said = f"{len(result.stdout):,} bytes are kept" if len(said) > 200 else said
    ended = (
        "killed at its time" if result.timed_out else f"ended by signal {-result.status}" if result.status < 0 else ""
    )
    return "; ".join(dict.fromkeys(filter(None, (said, ended))))


@contextmanager
def _secret() -> Iterator[Path]:
    """A file outside that every user may read."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "secret"
        path.write_text(secrets.token_hex(8))
        path.chmod(0o644)
        yield path


def table(found: list[Found]) -> str:
    """Markdown."""
    rows = [
        f"| {each.name} | {each.backend} | {each.breach or 'denied'} | {each.outcome.replace('|', '/')} |"
        for each in found
    ]
    return "\n".join(["| attack | backend | outcome | what it met |", "|---|---|---|---|", *rows])
