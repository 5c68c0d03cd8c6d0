"""Tasks on a Ray cluster, by datatrove's executor: the one that `RAY_ADDRESS` names, or one on this machine.

Ray is an extra of the project (`pip install -e .[ray]`).
"""

from __future__ import annotations

import os
import sys
import threading

from datatrove.executor.ray import RayPipelineExecutor

from k2core.corpus.cluster.block import Block
from k2core.corpus.cluster.following import LOGS
from k2core.corpus.workers import Corpus
from k2core.stage import StageError


class Ray:
    """`following.Launch` of a block."""

    def __init__(self, block: Block, tasks: int, corpus: Corpus) -> None:
        try:
            import ray  # noqa: F401
        except ImportError:
            raise StageError(
                "corpus.executor ray: the package ray is not installed; install it with `pip install -e .[ray]`, or "
                "set corpus.executor to local"
            ) from None
        self._corpus, self._thread = corpus, threading.Thread()
        self._executor = RayPipelineExecutor(
            pipeline=[block],
            tasks=tasks,
            workers=corpus.workers,
            mem_per_cpu_gb=corpus.memory_gb,
            logging_dir=str(block.folder / LOGS),
        )

    def __enter__(self) -> Ray:
        import ray

        # What a killed attempt left behind ends with its driver.
        paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        own = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": self._corpus.workers, "include_dashboard": False}
        ray.init(runtime_env={"env_vars": paths}, log_to_driver=False, **own)
        return self

    def __exit__(self, *error: object) -> None:
        import ray

        ray.shutdown()

    def start(self) -> None:
        self._thread = threading.Thread(target=self._executor.run, daemon=True)
        self._thread.start()

    def running(self) -> bool:
        return self._thread.is_alive()
