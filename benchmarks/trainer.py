"""The training loop: the time it takes besides its steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import trainer_worker
from benchmarks.harness import ROOT, Entry, compare
from benchmarks.scale import Scale
from benchmarks.trainer_worker import Setting

TOPIC = "trainer"


def run(scale: Scale) -> list[Entry]:
    """One entry."""
    intervals = measured(Setting(steps=scale.steps), scale)
    size = next(iter(scale.models))
    whole = [1e3 / interval["steps_per_second"] for interval in intervals]
    step = [ms * (1 - interval["throughput/overhead_pct"] / 100) for ms, interval in zip(whole, intervals, strict=True)]
    return [
        compare(
            f"training loop over its steps, {size}", whole, step, unit="ms", ratio_of="ours / peer", better="lower",
            goal=1.05, topic=TOPIC,
            note="a step with its share of data, logging and checkpoints as often as the laptop recipe has them, over "
            "forward, backward and optimiser alone",
        )
    ]  # fmt: skip


def measured(setting: Setting, scale: Scale) -> list[dict[str, float]]:
    """The live figures of each interval but the first of a training in processes of its own."""
    with tempfile.TemporaryDirectory() as folder:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(setting.processes)]
        command = [sys.executable, *(launcher if setting.processes > 1 else [])]
        command += ["-m", trainer_worker.__name__, folder, setting.model_dump_json(), scale.name]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TORCH_CPP_LOG_LEVEL": "ERROR"},
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        return json.loads((Path(folder) / trainer_worker.FIGURES).read_text())
