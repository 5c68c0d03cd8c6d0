"""`python -m benchmarks.kills`: a rank of a pipeline with experts dies ten times; then 2 and 8 processes go on.

A training of 4 processes (pipeline 2 × experts 2) is killed at random: a rank, a moment. The other ranks are ended, as
torchrun does, and the training starts again from its checkpoints. After the last death its folder is copied, and other
meshes train to the end. Each is compared with the training that nobody disturbed: every step's loss, and which tokens
each row of every step had, in all attempts. Writes the block `kills` of docs/parallel.md. It took four minutes on
two cores that others used as well.

Shapes: B rows, T positions.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import ProcessContext, ProcessExitedException, ProcessRaisedException

from benchmarks.harness import ROOT
from benchmarks.pages import rewrite
from benchmarks.scale import LAPTOP, build, smoke
from benchmarks.trainer_worker import write_tokens
from k2core.data.rows.batch import Batch
from k2core.data.rows.loader import PhaseSource
from k2core.data.rows.shards import TokenShards
from k2core.figures.tables import table
from k2core.optim.learning_rate import Schedule
from k2core.recipe import load_section
from k2core.stage import Job
from k2core.storage import write_json
from k2core.training.checkpoint import CheckpointConfig
from k2core.training.config import ParallelConfig
from k2core.training.learner import Learner
from k2core.training.phases import Phase
from k2core.training.ranks import Ranks
from k2core.training.setting import Setting
from k2core.training.spikes import SpikeConfig
from k2core.training.trainer import Plan, train

PAGE = ROOT / "docs" / "parallel.md"
ROWS, CONTEXT, AT_ONCE = 16, 16, 2
TOLERANCE = 2e-4
"""Relative, of a step's loss."""
KILLED = {"processes": 4, "pipeline": 2, "experts": 2}
RESUMED = {
    "2 (shards 2)": {"processes": 2},
    "8 (pipeline 2 × shards 4, experts 2)": {"processes": 8, "pipeline": 2, "experts": 2},
}
PROGRESS, LOSSES, ORDER = "progress", "losses.json", "order"
multiprocessing.get_context("forkserver").set_forkserver_preload(["torch._dynamo", "benchmarks.kills"])


@dataclass(frozen=True)
class Watched:
    """A source that writes down which tokens each row had, and how far the training is; it takes its time."""

    source: PhaseSource
    folder: Path
    batch_rows: int = ROWS

    def batch(self, step: int, rows: range | None = None) -> Batch:
        made = self.source.batch(step, rows)
        name = f"{ORDER}-{dist.get_world_size()}-{dist.get_rank()}"
        with (self.folder / name).open("a") as order:
            for row, tokens in zip(rows or range(ROWS), made.tokens_BT.tolist(), strict=True):
                order.write(json.dumps([step, row, tokens]) + "\n")
        if dist.get_rank() == 0:
            (self.folder / PROGRESS).write_text(str(step))
        time.sleep(0.01)
        return made

    def samples(self, step: int) -> list[str]:
        return self.source.samples(step)


def work(rank: int, folder: Path, sizes: dict[str, int], steps: int, attempt: int) -> None:
    """One process of a training in `folder`."""
    torch.set_num_threads(1)
    os.environ["RANK"] = str(rank)
    config = load_section(ParallelConfig, LAPTOP, "parallel").model_copy(
        update={"micro_batch_tokens": AT_ONCE * CONTEXT, **sizes}
    )
    store = f"file://{folder / f'meeting-{attempt}'}"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=config.processes)
    model = build(next(iter(smoke().models.values())).model_copy(update={"num_hidden_layers": 4}))
    ranks = Ranks(config.processes, rank, config.context, config.pipeline)
    ranks.spread(model, config)
    source = PhaseSource(
        TokenShards(folder.parent / "tokens"), weights={"web": 1.0}, steps=steps, batch_rows=ROWS, context=CONTEXT,
        seed=1, cursor={},
    )  # fmt: skip
    phase = load_section(Phase, LAPTOP, "pretrain", "stable")
    changes = {
        "tokens": steps * ROWS * CONTEXT, "batch_tokens": ROWS * CONTEXT, "log_every": 1, "checkpoint_every": 2,
        "schedule": Schedule(kind="constant", lr_start=1.0, lr_end=1.0, warmup_steps=0),
    }  # fmt: skip
    phase = phase.model_copy(update=changes)
    spikes = load_section(SpikeConfig, LAPTOP, "spikes")
    checkpoint = load_section(CheckpointConfig, LAPTOP, "checkpoint")
    setting = Setting(Job("kills", folder, None), spikes, checkpoint, ranks, config.micro_batch_tokens)
    optimizer = smoke().optimizer.build(model)
    result = train(Learner(model, optimizer), Plan(Watched(source, folder), phase), setting, folder / f"{rank}.csv")
    if rank == 0:
        write_json(folder / LOSSES, [row["train/loss"] for row in result.rows])
    dist.destroy_process_group()


def start(folder: Path, sizes: dict[str, int], steps: int, attempt: int) -> ProcessContext:
    """The processes of a training in `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / PROGRESS).write_text("0")
    context = torch.multiprocessing.start_processes(
        work, (folder, sizes, steps, attempt), nprocs=sizes["processes"], join=False, start_method="forkserver"
    )
    assert context is not None
    return context


def finish(context: ProcessContext) -> None:
    """Wait for all processes; one that fails ends the others and raises."""
    while not context.join():
        pass


def kill(context: ProcessContext, folder: Path, rank: int, step: int, delay: float) -> int:
    """End a rank `delay` seconds after the training has come to `step`; returns the step it had come to.

    Raises:
        RuntimeError: the training ended before.
    """
    while step_of(folder) < step:
        if context.join(timeout=0.002):
            raise RuntimeError(f"the training ended before step {step}")
    time.sleep(delay)
    os.kill(context.pids()[rank], signal.SIGKILL)
    try:
        finish(context)
    except (ProcessExitedException, ProcessRaisedException):
        return step_of(folder)
    raise RuntimeError("the training ended although a rank was killed")


def step_of(folder: Path) -> int:
    """The step that a training in `folder` has come to; the file is empty while it is written."""
    return int((folder / PROGRESS).read_text() or 0)


def order_of(folder: Path) -> dict[tuple[int, int], set[tuple[int, ...]]]:
    """The tokens that each row of each step had in any process and attempt; a line cut short by a death is left out."""
    found: dict[tuple[int, int], set[tuple[int, ...]]] = defaultdict(set)
    for file in folder.glob(f"{ORDER}-*"):
        for line in file.read_text().splitlines():
            if line.endswith("]]"):
                step, row, tokens = json.loads(line)
                found[step, row].add(tuple(tokens))
    return found


def run(kills: int, steps: int) -> tuple[list[list[Any]], list[list[Any]]]:
    """The deaths: number, rank, step it had come to, and the one it went on after; then for each of `RESUMED`: name,
    steps compared, largest relative difference of a loss, whether all rows had the same tokens.
    """
    random, deaths, ends = Random(7), [], []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_tokens(root / "tokens", 64, steps * ROWS * CONTEXT * 2)
        finish(start(root / "whole", KILLED, steps, 0))
        losses, order = json.loads((root / "whole" / LOSSES).read_text()), order_of(root / "whole")
        killed = root / "killed"
        for number, step in enumerate(sorted(random.randrange(1, steps - 4) for _ in range(kills)), 1):
            rank = random.randrange(KILLED["processes"])
            at = kill(start(killed, KILLED, steps, number), killed, rank, step, random.uniform(0, 0.3))
            sound = sorted(int(path.name.removeprefix("step-")) for path in killed.glob("step-*"))
            deaths.append([number, rank, at, sound[-1] if sound else 0])
        for number, (mesh, sizes) in enumerate(RESUMED.items(), kills + 1):
            folder = root / f"on-{sizes['processes']}"
            shutil.copytree(killed, folder)
            finish(start(folder, sizes, steps, number))
            found = json.loads((folder / LOSSES).read_text())
            apart = max(abs(own - wanted) / wanted for own, wanted in zip(found, losses, strict=True))
            ends.append([mesh, len(found), apart, order_of(folder) == order])
    return deaths, ends


def block(deaths: Iterable[list[Any]], ends: Iterable[list[Any]], steps: int) -> str:
    """The block of the page."""
    killed = table(["death", "rank", "in step", "goes on after step"], [[str(cell) for cell in row] for row in deaths])
    rows = [
        [mesh, f"{compared} of {steps}", f"{apart:.1e}", "equal" if same else "**differ**"]
        for mesh, compared, apart, same in ends
    ]
    went_on = table(["went on with", "losses compared", "largest relative difference", "tokens of all rows"], rows)
    return f"{killed}\n\n{went_on}"


if __name__ == "__main__":
    STEPS = 30
    deaths, ends = run(10, STEPS)
    rewrite(PAGE, "kills", block(deaths, ends, STEPS))
    print(block(deaths, ends, STEPS))
    if not all(apart <= TOLERANCE and same for _, _, apart, same in ends):
        raise SystemExit(f"a loss differs by more than {TOLERANCE:g} or rows had other tokens")
