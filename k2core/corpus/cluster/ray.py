"""Tasks on a Ray cluster, by datatrove's executor: the one that `RAY_ADDRESS` names, or one on this machine.

datatrove's `run` cannot be stopped, so it is in a process of its own, Ray's driver: what the driver started ends with
it. Ray is an extra of the project (`pip install -e .[ray]`).
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import sys
import threading
from typing import Any

from k2core.corpus.cluster.block import Block
from k2core.corpus.cluster.following import LOGS
from k2core.corpus.workers import Corpus, end_with_parent
from k2core.stage import StageError
from k2core.stage.process import terminate

_END_S = 30.0
"""What the driver has to end Ray in."""


class Ray:
    """`following.Launch` of a block."""

    def __init__(self, block: Block, tasks: int, corpus: Corpus) -> None:
        if not importlib.util.find_spec("ray"):
            raise StageError(
                "corpus.executor ray: the package ray is not installed; install it with `pip install -e .[ray]`, or "
                "set corpus.executor to local"
            )
        self._arguments = block, tasks, corpus
        self._driver: Any = None

    def __enter__(self) -> Ray:
        return self

    def __exit__(self, *error: object) -> None:
        if self._driver is not None:
            self._driver.join(0 if error[0] else _END_S)
            for end in (self._driver.terminate, self._driver.kill):
                if self._driver.is_alive():
                    end()
                    self._driver.join(_END_S)

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._driver = context.Process(target=_drive, args=self._arguments, daemon=True)
        self._driver.start()

    def running(self) -> bool:
        alive: bool = self._driver.is_alive()
        return alive


def _drive(block: Block, tasks: int, corpus: Corpus) -> None:
    import ray
    from datatrove.executor.ray import RayPipelineExecutor

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    own = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": corpus.workers, "include_dashboard": False}
    ray.init(runtime_env={"env_vars": paths}, log_to_driver=False, **own)
    signal.signal(signal.SIGTERM, terminate)
    try:
        RayPipelineExecutor(
            pipeline=[block],
            tasks=tasks,
            workers=corpus.workers,
            mem_per_cpu_gb=corpus.memory_gb,
            logging_dir=str(block.folder / LOGS),
        ).run()
    finally:
        ray.shutdown()
