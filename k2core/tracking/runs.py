"""The MLflow runs of one pipeline invocation: a parent, and a nested run for each stage.

Tags: `k2.stage`, `k2.state` (executed, skipped), `dvc.fingerprint` (md5 of the stage's `dvc.lock` entry, which joins
a skipped stage to the run that made its outputs), `k2.produced_by`, `git.commit`, `git.dirty`, `prefect.flow_run_id`.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import psutil
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient

from k2core.tracking.lock import LockedStage, downstream, is_code, read_lock
from k2core.tracking.uri import tracking_uri

EXPERIMENT = "k2"
BATCH = 100
CONTEXT = "mlflow.data.context"


class PipelineRuns:
    """Creates and closes the runs of one invocation. Not thread-safe: the recorder calls it from one thread."""

    def __init__(self, root: Path, pid: int) -> None:
        self._open(root)
        self._close_orphans()
        self.stages: dict[str, str] = {}
        """Stage name → id of its latest run in this invocation."""
        self.statuses: dict[str, str] = {}
        self._monitors: dict[str, SystemMetricsMonitor] = {}
        """Run id → what samples the machine (`system/…`: CPU, memory, disk, network, GPUs) while its stage runs."""
        self.parent = self._create("pipeline", {"k2.recorder": _identity(os.getpid()), "k2.pid": str(pid)})

    @classmethod
    def read_only(cls, root: Path) -> PipelineRuns:
        """For questions (`made_by`) only: creates no run."""
        runs = cls.__new__(cls)
        runs._open(root)
        return runs

    def _open(self, root: Path) -> None:
        self.root, self.uri = root.resolve(), tracking_uri(root)
        self.client = MlflowClient(self.uri)
        self.experiment_id = self._experiment()

    def start_stage(self, message: dict[str, Any]) -> str:
        """A nested run with the stage's parameters and its inputs as datasets. Returns its id."""
        run_id = self._create(
            message["stage"],
            {
                "mlflow.parentRunId": self.parent,
                "k2.stage": message["stage"],
                "k2.state": "executed",
                "k2.recorder": _identity(os.getpid()),
                **self._parent_tags("prefect."),
            },
        )
        params = [Param(key, str(value)[:6000]) for key, value in flatten(message["params"])]
        for start in range(0, len(params), BATCH):
            self.client.log_batch(run_id, params=params[start : start + BATCH])
        self._datasets(run_id, message["inputs"], "input")
        self.stages[message["stage"]] = run_id
        self._monitors[run_id] = SystemMetricsMonitor(run_id, tracking_uri=self.uri)
        self._monitors[run_id].start()
        return run_id

    def metrics(self, run_id: str, message: dict[str, Any]) -> None:
        """Log one message's figures."""
        self.client.log_batch(
            run_id,
            metrics=[
                Metric(key, float(value), message["time"], message["step"]) for key, value in message["values"].items()
            ],
        )

    def end_stage(self, stage: str, run_id: str, status: str, error: str) -> None:
        """Close a stage's run as FINISHED, FAILED or KILLED."""
        if error:
            self.client.set_tag(run_id, "k2.error", error[:4900])
        self.statuses[stage] = status
        self._monitors.pop(run_id).finish()
        self.client.set_terminated(run_id, status)

    def tag_parent(self, tags: dict[str, str]) -> None:
        """Tags of the whole pipeline run, e.g. the Prefect flow run's id and page."""
        for key, value in tags.items():
            self.client.set_tag(self.parent, key, value)

    def finish(self) -> str:
        """After the pipeline's process has ended: outputs' digests, skipped stages, the parent's status."""
        lock = read_lock(self.root)
        for stage, run_id in self.stages.items():
            if stage in lock and self.statuses.get(stage) == "FINISHED":
                self._datasets(run_id, lock[stage].outs, "output")
                self.client.set_tag(run_id, "dvc.fingerprint", lock[stage].fingerprint)
        failed = {stage for stage, status in self.statuses.items() if status != "FINISHED"}
        stale = downstream(lock, failed | {stage for stage in self.stages if stage not in lock})
        for stage in lock.values():
            if stage.name not in self.stages and stage.name not in stale:
                self._skipped(stage)
        status = "FINISHED" if not failed else "KILLED" if "KILLED" in self.statuses.values() else "FAILED"
        self.client.set_terminated(self.parent, status)
        return status

    def _skipped(self, stage: LockedStage) -> None:
        maker = self.made_by(stage)
        run_id = self._create(
            stage.name,
            {
                "mlflow.parentRunId": self.parent,
                "k2.stage": stage.name,
                "k2.state": "skipped",
                "dvc.fingerprint": stage.fingerprint,
                "k2.produced_by": maker.info.run_id if maker else "unknown",
                "mlflow.note.content": (
                    f"DVC skipped this stage: nothing it depends on has changed. Its outputs were made by run "
                    f"[{maker.info.run_id}](#/experiments/{self.experiment_id}/runs/{maker.info.run_id})."
                    if maker
                    else "DVC skipped this stage; the run that made its outputs is not in this MLflow store."
                ),
                **self._parent_tags("prefect."),
            },
        )
        self._datasets(run_id, {k: v for k, v in stage.deps.items() if not is_code(k)}, "input")
        self._datasets(run_id, stage.outs, "output")
        self.client.set_terminated(run_id, "FINISHED")

    def made_by(self, stage: LockedStage) -> Run | None:
        """The executed run whose `dvc.lock` entry is the stage's present one."""
        found = self.client.search_runs(
            [self.experiment_id],
            f"tags.`dvc.fingerprint` = '{stage.fingerprint}' and tags.`k2.state` = 'executed'",
            max_results=1,
        )
        return found[0] if found else None

    def _datasets(self, run_id: str, digests: dict[str, str], context: str) -> None:
        datasets = [
            DatasetInput(
                Dataset(name=path, digest=md5, source_type="dvc", source=f'{{"path": "{path}", "md5": "{md5}"}}'),
                [InputTag(CONTEXT, context)],
            )
            for path, md5 in digests.items()
            if md5
        ]
        if datasets:
            self.client.log_inputs(run_id, datasets)

    def _create(self, name: str, tags: dict[str, str]) -> str:
        return self.client.create_run(
            self.experiment_id, tags={**tags, **git_state(self.root), "mlflow.source.name": "dvc.yaml"}, run_name=name
        ).info.run_id

    def _parent_tags(self, prefix: str) -> dict[str, str]:
        tags = self.client.get_run(self.parent).data.tags
        return {key: value for key, value in tags.items() if key.startswith(prefix)}

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(EXPERIMENT)
        if found:
            return found.experiment_id
        local = "MLFLOW_TRACKING_URI" not in os.environ
        return self.client.create_experiment(
            EXPERIMENT,
            artifact_location=(self.root / "mlartifacts").as_uri() if local else None,
            # The page then opens on the table of runs, not on the one for LLM traces.
            tags={"mlflow.experimentKind": "custom_model_development"},
        )

    def _close_orphans(self) -> None:
        """Runs whose recorder was itself killed: nobody else would ever end them."""
        for run in self.client.search_runs([self.experiment_id], "attributes.status = 'RUNNING'"):
            if not _alive(run.data.tags.get("k2.recorder", "")):
                self.client.set_terminated(run.info.run_id, "KILLED")


def flatten(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as `a/b/c` keys; lists as text."""
    if isinstance(value, dict):
        return [
            pair for key, item in value.items() for pair in flatten(item, f"{prefix}/{key}" if prefix else str(key))
        ]
    return [(prefix.replace("@", "/"), value)]


def git_state(root: Path) -> dict[str, str]:
    """Commit and cleanness of the workspace; empty outside git."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False).stdout.strip()

    commit = git("rev-parse", "--verify", "-q", "HEAD")
    dirty = git("status", "--porcelain", "--untracked-files=no")
    return (
        {"git.commit": commit, "mlflow.source.git.commit": commit, "git.dirty": str(bool(dirty)).lower()}
        if commit
        else {}
    )


def _identity(pid: int) -> str:
    return f"{pid}:{psutil.Process(pid).create_time()}"


def _alive(identity: str) -> bool:
    pid, _, born = identity.partition(":")
    try:
        return bool(pid) and str(psutil.Process(int(pid)).create_time()) == born
    except psutil.NoSuchProcess:
        return False
