"""One process of a training that `benchmarks.trainer` and `benchmarks.processes` measure: FOLDER SETTING SCALE."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel

from benchmarks import scale
from benchmarks.harness import memory
from benchmarks.scale import LAPTOP
from k2core.data.rows.loader import PhaseSource
from k2core.data.rows.shards import TokenizedDocument, TokenShards, write_shards
from k2core.machine import Compute
from k2core.machine.memory import return_freed_memory
from k2core.machine.processes import gathered
from k2core.optim.learning_rate import Schedule
from k2core.recipe import load_section
from k2core.stage import Job
from k2core.storage import write_json
from k2core.training.checkpoint import CheckpointConfig
from k2core.training.config import ParallelConfig
from k2core.training.learner import Learner
from k2core.training.phases import Phase
from k2core.training.ranks import joined
from k2core.training.setting import Setting as TrainingSetting
from k2core.training.spikes import SpikeConfig
from k2core.training.trainer import Plan, train

FIGURES = "figures.json"


class Setting(BaseModel):
    """What is measured: a model of the scale (empty: the first), processes, and how they share the work.

    Attributes:
        threads: of all processes together; None: the scale's.
        row_tokens: of a row, of which a step has as many as make the scale's tokens; None: the scale's.
        at_once: tokens of a micro-batch; None: all of a process's, in a pipeline a row.
        returned: memory that is freed goes back to the system at once, so that what is there was not freed.
    """

    size: str = ""
    processes: int = 1
    context: int = 1
    experts: int = 1
    replicas: int = 1
    pipeline: int = 1
    steps: int = 30
    threads: int | None = None
    row_tokens: int | None = None
    at_once: int | None = None
    returned: bool = False


class Listener(Job):
    """Keeps what would go to MLflow, and the most memory so far: as steps are logged, before a checkpoint is made."""

    def __init__(self, folder: Path) -> None:
        super().__init__("trainer", folder, None)
        self.seen: list[dict[str, float]] = []
        self.most = 0

    def log(self, metrics: dict[str, float], step: int = 0) -> None:
        self.seen.append(metrics)
        self.most = memory("VmHWM")


def main(folder: Path, setting: Setting, sizes: scale.Scale) -> None:
    threads = setting.threads or sizes.threads
    load_section(Compute, LAPTOP, "compute").model_copy(update={"threads": threads}).apply()
    if setting.returned:
        return_freed_memory()
    context = setting.row_tokens or sizes.context
    sizes = replace(sizes, rows=sizes.rows * sizes.context // context, context=context)
    config = sizes.models[setting.size or next(iter(sizes.models))]
    batch_tokens = sizes.rows * sizes.context
    phase = load_section(Phase, LAPTOP, "pretrain", "stable")
    changes = {
        "tokens": setting.steps * batch_tokens, "batch_tokens": batch_tokens,
        "schedule": Schedule(kind="constant", lr_start=0.1, lr_end=0.1, warmup_steps=0),
        "log_every": min(phase.log_every, setting.steps // 3),
    }  # fmt: skip
    phase = phase.model_copy(update=changes)
    shared = setting.model_dump(include={*ParallelConfig.model_fields})
    parallel = load_section(ParallelConfig, LAPTOP, "parallel").model_copy(update=shared)
    with joined(parallel) as ranks:
        shards = folder / "tokens"
        if ranks.rank == 0:
            write_tokens(shards, config.vocab_size, setting.steps * batch_tokens)
        ranks.sum(0)  # the others wait for the tokens
        before = memory("VmRSS")
        torch.manual_seed(1)
        model = ranks.fresh(config, parallel)
        Path("/proc/self/clear_refs").write_text("5")  # what was in memory at most no longer counts
        job = Listener(folder)
        at_once = setting.at_once or (sizes.context if setting.pipeline > 1 else None)
        source = PhaseSource(
            TokenShards(shards), weights={"web": 1.0}, steps=setting.steps, batch_rows=sizes.rows,
            context=sizes.context, seed=1, cursor={},
        )  # fmt: skip
        spikes = load_section(SpikeConfig, LAPTOP, "spikes")
        checkpoint = load_section(CheckpointConfig, LAPTOP, "checkpoint")
        train(
            Learner(model, sizes.optimizer.build(model)), Plan(source, phase),
            TrainingSetting(job, spikes, checkpoint, ranks, at_once), folder / "plot.csv",
        )  # fmt: skip
        grown = max(gathered(job.most - before)) / 2**20
        if ranks.rank == 0:
            rows = [
                {**row, "steps_per_second": row["throughput/tps"] / batch_tokens, "grown_mib": grown}
                for row in job.seen
            ]
            write_json(folder / FIGURES, rows[1:])


def write_tokens(folder: Path, vocabulary: int, tokens: int) -> None:
    """Documents of random tokens, of random lengths around 200."""
    random = np.random.default_rng(1)
    lengths = random.integers(50, 350, size=2 + tokens // 150)
    documents = (
        TokenizedDocument("train", "web", random.integers(1, vocabulary, size=length).tolist(), int(length))
        for length in lengths.tolist()
    )
    write_shards(folder, documents, vocab_size=vocabulary, eos_id=0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Setting.model_validate_json(sys.argv[2]), getattr(scale, sys.argv[3])())
