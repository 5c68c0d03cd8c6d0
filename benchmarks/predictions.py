"""`python -m benchmarks.predictions`: what the planner says of real trainings here, and what they took.

The machine is a cluster of which each rank is a thread. What a cluster's file would say is measured first, apart from
what is predicted: operations per second of a rank, by as many trainings of one process at once as there will be
ranks, in rows half as long, each with a rank's micro-batch; the link, and what an exchange takes besides its bytes, by
FSDP2 on a large layer and on small ones that compute next to nothing. Then trainings of 1, 2 and 4 processes at three
sizes, their time of a step and their memory. Writes the block `predictions` of docs/parallel.md. The time needs an idle
machine and 15 minutes.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
import typer
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from benchmarks import scale
from benchmarks.harness import ROOT, commit, machine
from benchmarks.pages import rewrite
from benchmarks.scale import LAPTOP, Scale
from benchmarks.trainer import measured
from benchmarks.trainer_worker import Setting
from k2core.figures.tables import table
from k2core.model.counts import training_flops
from k2core.planning.cluster import Cluster
from k2core.planning.jobs import Job, Jobs
from k2core.planning.plan import Phase, plan
from k2core.planning.staged import mesh_of
from k2core.recipe import load_section
from k2core.storage import write_json
from k2core.training.config import ParallelConfig

DATA = ROOT / "benchmarks" / "predictions.json"
PAGE = ROOT / "docs" / "parallel.md"
What = Literal["time", "memory"]
MESHES: dict[str, dict[str, int]] = {
    "1": {},
    "2, shards": {"processes": 2},
    "2, experts": {"processes": 2, "experts": 2},
    "2, pipeline": {"processes": 2, "pipeline": 2},
    "4, shards, experts 2": {"processes": 4, "experts": 2},
}
STEPS = {"2M": 30, "12M": 12, "40M": 9}
GOAL = 0.15
LAYERS, LARGE = 32, 2**11
"""Small layers, and width of the large one, which an exchange is measured with."""


app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def main(
    only: What | None = typer.Option(None, help="measure this alone; what was measured of the other stays"),
    smoke: bool = typer.Option(False, help="only try the code: the figures mean nothing, nothing is written"),
) -> None:
    """Measure, predict, and write the table."""
    sizes = scale.smoke() if smoke else scale.full()
    points = json.loads(DATA.read_text()) if DATA.exists() and not smoke else {}
    for what, measure in {"time": _time, "memory": _memory}.items():
        if only is None or what == only:
            points |= {what: {"machine": machine(), "commit": commit(), **measure(sizes)}}
            if not smoke:
                write_json(DATA, points)
    print(page(points))
    if not smoke and points.keys() == {"time", "memory"}:
        rewrite(PAGE, "predictions", page(points))


def page(points: dict[str, Any]) -> str:
    """The table of docs/parallel.md."""
    heads = ["model", "processes", "step, ms: planned", "measured", "", "memory, MiB: planned", "measured", ""]
    rows, wrong = [], 0
    found = {what: point["found"] for what, point in points.items()}
    for name in next(iter(found.values())):
        row = name.split(": ")
        for what in ("time", "memory"):
            expected, took = found.get(what, {}).get(name, (0.0, 1.0))
            apart = expected / took - 1
            wrong += abs(apart) > GOAL
            row += [f"{expected:,.0f}", f"{took:,.0f}", f"{apart:+.0%}{' **missed**' * (abs(apart) > GOAL)}"]
        rows.append(row)
    measured = "; ".join(f"{what} on {point['machine']}, commit {point['commit']}" for what, point in points.items())
    links = points.get("time", {}).get("links", {})
    facts = ", ".join(f"{ranks} ranks {rate:.2f} GB/s and {us:,.0f} µs" for ranks, (rate, us) in links.items())
    return (
        f"{table(heads, rows)}\n\nBeyond {GOAL:.0%}: {wrong} of {2 * len(rows)}. Links: {facts}. Measured: {measured}."
    )


def _meshes(sizes: Scale) -> Iterator[tuple[str, str, dict[str, int]]]:
    """Row of the table, size, and mesh of each training."""
    for size in sizes.models:
        for name, mesh in MESHES.items():
            if sizes.rows % mesh.get("processes", 1) == 0:
                yield f"{size}: {name}", size, mesh


def _time(sizes: Scale) -> dict[str, Any]:
    """Milliseconds of a step, planned and measured, of each training."""
    links = {ranks: _link(ranks) for ranks in sorted({mesh.get("processes", 1) for mesh in MESHES.values()} - {1})}
    rates: dict[tuple[str, int, int], float] = {}
    found = {}
    for name, size, mesh in _meshes(sizes):
        ranks = mesh.get("processes", 1)
        key = size, ranks, _at_once(sizes, mesh)
        if key not in rates:
            rates[key] = _rate(sizes, *key)
        expected = _phase(sizes, size, mesh, rates[key], links.get(ranks, (1.0, 0.0))).seconds
        rows = measured(_setting(size, mesh, STEPS.get(size, 6)), sizes)
        found[name] = 1e3 * expected, 1e3 / statistics.median(row["steps_per_second"] for row in rows)
        print(name, *map(round, found[name]), flush=True)
    return {"links": links, "found": found}


def _memory(sizes: Scale) -> dict[str, Any]:
    """MiB of the rank that has most, planned and measured, of each training.

    On a CPU the copy of weights and optimiser state for the next checkpoint counts too.
    """
    found, empty = {}, dict[str, float]()
    for name, size, mesh in _meshes(sizes):
        key = str(mesh)
        if key not in empty:  # libraries, and buffers of the links
            tiny = _setting("tiny", mesh, 3).model_copy(update={"row_tokens": 8, "returned": True})
            empty[key] = measured(tiny, scale.smoke())[-1]["grown_mib"]
        rows = measured(_setting(size, mesh, 3).model_copy(update={"returned": True}), sizes)
        plan = _phase(sizes, size, mesh, 1e9, (1.0, 0.0)).memory
        expected = (plan.peak + plan.states["weights"] + plan.states["optimiser"]) / 2**20
        found[name] = expected, rows[-1]["grown_mib"] - empty[key]
        print(name, *map(round, found[name]), flush=True)
    return {"found": found}


def _setting(size: str, mesh: dict[str, int], steps: int) -> Setting:
    return Setting(size=size, steps=steps, threads=mesh.get("processes", 1), **mesh)


def _at_once(sizes: Scale, mesh: dict[str, int]) -> int:
    """Tokens of a rank's micro-batch."""
    if mesh.get("pipeline", 1) > 1:
        return sizes.context
    return sizes.rows * sizes.context // mesh.get("processes", 1)


def _rate(sizes: Scale, size: str, ranks: int, at_once: int) -> float:
    """Operations per second of a rank, when as many work at once, each on micro-batches of so many tokens."""
    context = sizes.context // 2
    setting = Setting(size=size, steps=STEPS.get(size, 6), threads=1, row_tokens=context, at_once=at_once)
    with ThreadPoolExecutor(ranks) as pool:
        found = [row for rows in pool.map(lambda _: measured(setting, sizes), range(ranks)) for row in rows]
    return statistics.median(row["throughput/tps"] for row in found) * training_flops(sizes.models[size], context)


def _phase(sizes: Scale, size: str, mesh: dict[str, int], rate: float, link: tuple[float, float]) -> Phase:
    """The planner's step of a training."""
    ranks, batch = mesh.get("processes", 1), sizes.rows * sizes.context
    changes = {"micro_batch_tokens": _at_once(sizes, mesh), **mesh}
    parallel = load_section(ParallelConfig, LAPTOP, "parallel").model_copy(update=changes)
    job = Job("stable", tokens=batch, batch_tokens=batch, context=sizes.context)
    cluster = Cluster(
        gpus=ranks, gpus_per_node=ranks, memory_gb=1e3, reserved_gb=0, host_memory_gb=1e3, tflops={"fp32": rate / 1e12},
        inside_gb_s=link[0], between_gb_s=link[0], exchange_us=link[1], overlap=False, share_of_peak=1,
        share_source="measured here",
    )  # fmt: skip
    (phase,) = plan(Jobs(sizes.models[size], "fp32", parallel, (job,), ()), mesh_of(parallel), cluster).phases
    return phase


def _link(ranks: int) -> tuple[float, float]:
    """GB/s that a rank sends, and microseconds of an exchange besides."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(_measure_link, (ranks, folder), ranks, start_method="spawn")
        rate, us = (float(word) for word in (Path(folder) / "link").read_text().split())
    return rate, us


def _measure_link(rank: int, ranks: int, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", FutureWarning)  # new names, which the oldest torch that counts lacks
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    mesh = init_device_mesh("cpu", (ranks,))

    def exchanges(width: int, layers: int) -> float:
        """Seconds of an exchange of FSDP2 in layers that compute next to nothing, its copies in and out included."""
        model = nn.Sequential(*(fully_shard(nn.Linear(width, width, bias=False), mesh=mesh) for _ in range(layers)))
        row = torch.ones(1, width, requires_grad=True)
        return _median(lambda: model(row).sum().backward()) / (3 * layers)

    small, large = exchanges(8, LAYERS), exchanges(LARGE, 1)
    sent = 4 * LARGE**2 * (ranks - 1) / ranks
    found = sent / (large - small) / 1e9, small * 1e6
    if rank == 0:
        Path(folder, "link").write_text(" ".join(map(str, found)))
    dist.destroy_process_group()


def _median(work: Callable[[], Any], times: int = 15) -> float:
    """Seconds, without the first three."""
    taken = []
    for _ in range(times + 3):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[3:])


if __name__ == "__main__":
    app()
