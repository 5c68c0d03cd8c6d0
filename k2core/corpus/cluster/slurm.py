"""Tasks as an array of Slurm, by datatrove's executor.

datatrove's `run` submits and returns. Here the jobs' ids are kept, so that the stage can wait for them, cancel them,
and cancel those of an attempt that was killed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datatrove.executor.slurm import SlurmPipelineExecutor

from k2core.corpus.cluster.block import Block
from k2core.corpus.cluster.following import LOGS
from k2core.corpus.workers import Corpus
from k2core.stage import StageError

IDS = "slurm-jobs"
_ASK_S, _FAULTS, _ANSWER_S = 1.0, 20, 15
"""Between two questions about a job that should be gone; questions without an answer that end the stage; seconds after
which a question has none."""


class Slurm:
    """`following.Launch` of a block."""

    def __init__(self, block: Block, tasks: int, corpus: Corpus) -> None:
        for program in ("sbatch", "squeue", "scancel"):
            if shutil.which(program) is None:
                raise StageError(
                    f"corpus.executor slurm: there is no {program}; run the stage on a node that can submit jobs, or "
                    "set corpus.executor to local"
                )
        if any(character.isspace() for character in str(block.folder)):
            raise StageError(f"corpus.executor slurm: {block.folder} has a space; sbatch takes no such path")
        self._ids, self._faults = block.folder / IDS, 0
        # Of several clusters, the one that the jobs were sent to.
        self._where = [f"--clusters={corpus.sbatch['clusters']}"] if "clusters" in corpus.sbatch else []
        self._executor = _Executor(
            pipeline=[block],
            tasks=tasks,
            workers=corpus.workers,
            time=corpus.time,
            partition=corpus.partition,
            mem_per_cpu_gb=corpus.memory_gb,
            job_name="k2-corpus",
            qos="",
            env_command=f"export PYTHONPATH={shlex.quote(os.pathsep.join(filter(None, sys.path)))}",
            sbatch_args=dict(corpus.sbatch),
            job_id_retriever=_Noted(self._ids),
            logging_dir=str(block.folder / LOGS),
            with_srun=False,
        )

    def __enter__(self) -> Slurm:
        self._cancel()  # what a killed attempt left behind would write to the same places
        return self

    def __exit__(self, *error: object) -> None:
        self._cancel()

    def start(self) -> None:
        self._executor.job_id = None  # else the new job depends on one that has ended
        try:
            self._executor.launch_job()
        except subprocess.CalledProcessError as error:
            raise StageError(f"sbatch refuses the job ({error}; its message is above); see section corpus") from None

    def running(self) -> bool:
        ids = set(self._ids.read_text().split())
        found = _asked(["squeue", *self._where, "--me", "--noheader", "--format=%F"])
        self._faults = self._faults + 1 if found.returncode else 0
        if self._faults >= _FAULTS:
            raise StageError(f"squeue fails {_FAULTS} times in a row: {found.stderr.strip()}")
        return bool(found.returncode) or bool(ids & set(found.stdout.split()))

    def _cancel(self) -> None:
        if self._ids.exists() and (ids := self._ids.read_text().split()):
            _asked(["scancel", *self._where, *ids])
            while self.running():
                time.sleep(_ASK_S)
        self._ids.unlink(missing_ok=True)


def _asked(command: list[str]) -> subprocess.CompletedProcess[str]:
    """What a command of Slurm's says; one that does not end counts as failed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ANSWER_S)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"no answer within {_ANSWER_S} s")


class _Executor(SlurmPipelineExecutor):
    """datatrove's executor whose tasks run this environment's Python, and without a job that adds up statistics."""

    def launch_merge_stats(self) -> None:
        pass

    def get_launch_file_contents(self, sbatch_args: dict[str, Any], run_script: str) -> str:
        pickled = shlex.quote(run_script.split()[-1])
        run_script = f"{shlex.quote(sys.executable)} -m k2core.corpus.cluster.task {pickled}"
        contents: str = super().get_launch_file_contents(sbatch_args, run_script)
        return contents


@dataclass(frozen=True)
class _Noted:
    """Reads a job's id from what sbatch prints, and keeps it in a file."""

    path: Path

    def __call__(self, printed: str) -> str:
        found = re.search(r"\d+", printed)  # "Submitted batch job 123 on cluster hpc"
        if not found:
            raise StageError(f"sbatch names no job ({printed.strip() or 'it prints nothing'}); look at squeue --me")
        id = found[0]
        with self.path.open("a") as file:
            file.write(f"{id}\n")
        return id
