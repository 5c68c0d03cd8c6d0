"""Paired timing, and the results file: what every benchmark shares."""

from __future__ import annotations

import functools
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from k2core.storage import write_json

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results.json"

Work = Callable[[], object]
RatioOf = Literal["ours / peer", "peer / ours"]


@dataclass(frozen=True)
class Entry:
    """One comparison, or a figure of ours alone: then `peer`, `ratio` and `spread` are None.

    Attributes:
        ours: median of our figures, in `unit`; `peer` likewise.
        ratio: median of the ratios of neighbouring pairs; `ratio_of` says which way round.
        spread: lower and upper quartile of those ratios.
        goal: what `ratio` should reach (`better` "higher") or not exceed ("lower"); None where none was set.
        met: whether it does.
        command: what measures it again.
        note: what exactly was compared.
        bytes_each: UTF-8 bytes of a document, where documents are counted.
    """

    name: str
    ours: float
    peer: float | None
    unit: str
    ratio: float | None
    ratio_of: RatioOf
    spread: tuple[float, float] | None
    goal: float | None
    better: Literal["higher", "lower"]
    met: bool | None
    note: str
    command: str
    machine: str
    commit: str
    bytes_each: float | None = None


def alternate(works: dict[str, Work], *, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of each call of `works`, called in turn (A, B, A, B, …) after one call each that does not count.

    In turn, because a machine's speed drifts: neighbours see the same machine.

    Args:
        rounds: calls of each, at least.
        seconds: rounds are added until this time is used up.
    """
    for work in works.values():
        work()
    times: dict[str, list[float]] = {name: [] for name in works}
    begun = time.perf_counter()
    done = 0
    while done < rounds or time.perf_counter() - begun < seconds:
        for name, work in works.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
        done += 1
    return times


def compare(
    name: str, ours: Sequence[float], peer: Sequence[float], *, unit: str, ratio_of: RatioOf,
    better: Literal["higher", "lower"], goal: float | None, topic: str, note: str,
) -> Entry:  # fmt: skip
    """The entry of neighbouring measurements `ours[i]`, `peer[i]`, both in `unit`."""
    pairs = list(zip(ours, peer, strict=True))
    ratios = [o / p if ratio_of == "ours / peer" else p / o for o, p in pairs]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
    ratio = statistics.median(ratios)
    met = None if goal is None else ratio >= goal if better == "higher" else ratio <= goal
    return Entry(
        name=name, ours=statistics.median(ours), peer=statistics.median(peer), unit=unit, ratio=ratio,
        ratio_of=ratio_of, spread=(low, high), goal=goal, better=better, met=met, note=note,
        command=f"python -m benchmarks {topic}", machine=machine(), commit=commit(),
    )  # fmt: skip


def measured(name: str, ours: Sequence[float], *, unit: str, topic: str, note: str) -> Entry:
    """The entry of measurements that have no peer."""
    return Entry(
        name=name, ours=statistics.median(ours), peer=None, unit=unit, ratio=None, ratio_of="ours / peer", spread=None,
        goal=None, better="higher", met=None, note=note, command=f"python -m benchmarks {topic}", machine=machine(),
        commit=commit(),
    )  # fmt: skip


def milliseconds(times: Sequence[float]) -> list[float]:
    """Seconds as milliseconds."""
    return [1e3 * second for second in times]


def save(entries: Sequence[Entry], path: Path) -> list[dict]:
    """Write `entries`; those of other topics that `path` already has stay. Returns all of them."""
    commands = {entry.command for entry in entries}
    before = json.loads(path.read_text()) if path.exists() else []
    rows = [row for row in before if row["command"] not in commands] + [asdict(entry) for entry in entries]
    write_json(path, rows)
    return rows


def memory(name: str) -> int:
    """Bytes that this process has in memory (`VmRSS`), or had at most (`VmHWM`), mapped files included. Linux alone."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status[name].split()[0])


@functools.cache
def machine() -> str:
    """Cores that this process may use, memory, and the processor with what else its speed depends on."""
    import psutil

    cores = len(psutil.Process().cpu_affinity())
    facts = [f"{cores} core{'s' * (cores > 1)}", f"{psutil.virtual_memory().total / 2**30:.0f} GiB"]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return ", ".join(facts)
    facts += [line.partition(": ")[2] for line in lines if line.startswith("model name")][:1]
    extensions = {"AVX-512": " avx512f ", "bf16 products": " avx512_bf16 "}
    return ", ".join([*facts, *(name for name, flag in extensions.items() if any(flag in line for line in lines))])


@functools.cache
def commit() -> str:
    """The commit, with a + where code differs from it; "unknown" outside a repository."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--", "*.py") else "")
    except (subprocess.CalledProcessError, FileNotFoundError):
        return "unknown"
