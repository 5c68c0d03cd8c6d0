"""The sandbox: its start, short executions per second, and what 10,000 executions with hostile ones among them leave.

At full scale docs/sandbox.md gets the table of escapes of each backend and these figures.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.escapes import ATTACKS, escapes, table
from benchmarks.harness import ROOT, Entry, measured
from benchmarks.pages import number, rewrite
from benchmarks.scale import Scale
from k2core.sandbox.backends import BACKENDS, create, fault
from k2core.sandbox.base import MIB, Limits
from k2core.sandbox.local import USERS

TOPIC = "sandbox"
DOC = ROOT / "docs" / "sandbox.md"
SHORT = Limits(wall=10.0, cpu=1, memory=256 * MIB, processes=8, output=MIB // 16, disk=MIB)
GENTLE = "print(sum(int(word) for word in input().split()))"
HOSTILE = (
    "a fork bomb",
    "2 GiB of memory",
    "1 GiB of output",
    "a daemon that outlives",
    "signals to the parent",
    "mount",
)
PROGRAMS = {backend.program for backend in BACKENDS}
WORKERS = len(os.sched_getaffinity(0)) + 1


@dataclass(frozen=True)
class Counted:
    """Many executions.

    Attributes:
        wrong: gentle ones without the right result.
        left: what there is more of afterwards, and how much: processes of ours, sandboxes without a parent, mounts,
            files of sandboxes' users, open files.
    """

    executions: int
    hostile: int
    wrong: int
    seconds: float
    left: Mapping[str, int]


def many(executions: int, hostile_share: float) -> Counted:
    """Run short programs, one in `1 / hostile_share` of them an attack."""
    every = round(1 / hostile_share) if hostile_share else executions + 1
    attacks = [attack.script(Path("/etc/hostname")) for attack in ATTACKS if attack.name in HOSTILE]
    create(SHORT).exec(["true"])  # what is opened once and stays
    before = _present()

    def one(index: int) -> bool:
        if index % every == every - 1:
            with create(SHORT, {"main.py": attacks[index // every % len(attacks)]}) as sandbox:
                sandbox.exec(["python", "main.py"])
            return True
        with create(SHORT) as sandbox:
            return sandbox.exec(["python", "-c", GENTLE], f"{index} 1\n".encode()).stdout == b"%d\n" % (index + 1)

    started = time.perf_counter()
    with ThreadPoolExecutor(WORKERS) as pool:
        right = list(pool.map(one, range(executions)))
    seconds = time.perf_counter() - started
    after = _present()
    left = {name: count - before[name] for name, count in after.items() if count > before[name]}
    return Counted(executions, executions // every, right.count(False), seconds, left)


def _present() -> dict[str, int]:
    def orphans() -> int:
        found = (each.info for each in psutil.process_iter(["name", "ppid"]))
        return sum(each["name"] in PROGRAMS and each["ppid"] == 1 for each in found)

    deadline = time.monotonic() + 10  # the kernel takes a moment to clear away, process 1 another
    while (psutil.Process().children(recursive=True) or orphans()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return {
        "processes": len(psutil.Process().children(recursive=True)),
        "orphans": orphans(),
        "mounts": len(Path("/proc/self/mountinfo").read_text().splitlines()),
        "files": sum(entry.stat(follow_symlinks=False).st_uid in USERS for entry in os.scandir("/tmp")),
        "open files": len(os.listdir("/proc/self/fd")),
    }


def run(scale: Scale) -> list[Entry]:
    """Start, rate, and the count; at full scale docs/sandbox.md gets its blocks."""
    full = scale.name == "full"
    starts: dict[str, list[float]] = {backend.program: [] for backend in BACKENDS if not fault(backend)}
    for backend in (backend for backend in BACKENDS if backend.program in starts):
        for _ in range(100 if full else 3):
            begun = time.perf_counter()
            backend(SHORT, {}).exec(["true"])
            starts[backend.program].append(1e3 * (time.perf_counter() - begun))
    rates = []
    for _ in range(5 if full else 1):
        counted = many(400 if full else 6, 0.0)
        rates.append(counted.executions / counted.seconds)
    counted = many(10_000 if full else 12, 0.01 if full else 0.25)
    if counted.wrong or counted.left:
        raise RuntimeError(
            f"of {counted.executions} executions {counted.wrong} were wrong, and there is left {counted.left}"
        )
    entries = [
        *(
            measured(f"start of a sandbox and its end, {name}", times, unit="ms", topic=TOPIC, note="of true")
            for name, times in starts.items()
        ),
        measured(
            "short executions", rates, unit="per second", topic=TOPIC,
            note=f"Python, {WORKERS} at a time, each in a sandbox of its own",
        ),
        measured(
            "executions with 1% hostile ones that leave nothing", [counted.executions], unit="executions", topic=TOPIC,
            note=f"{counted.hostile} hostile, {counted.seconds:.0f} s; processes, mounts, files counted before and after",  # noqa: E501
        ),
    ]  # fmt: skip
    if full:
        rewrite(DOC, "escapes", table([each for b in BACKENDS if not fault(b) for each in escapes(b)]))
        lines = [f"| {entry.name} ({entry.note}) | {number(entry.ours)} {entry.unit} |" for entry in entries]
        rewrite(DOC, "speed", "\n".join(["| | |", "|---|---|", *lines, "", f"Measured on {entries[0].machine}."]))
    return entries
