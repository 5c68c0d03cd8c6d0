"""The MLflow runs of one pipeline invocation: a parent, and a nested run for each stage.

Tags: `k2.kind` (pipeline), `k2.stage`, `k2.state` (executed, skipped), `dvc.fingerprint` (md5 of the stage's
`dvc.lock` entry, which joins a skipped stage to the run that made its outputs), `k2.produced_by`, `k2.error`,
`git.commit`, `git.dirty`, `prefect.flow_run_id`, `prefect.flow_run_url`.

Every method may be called again after MLflow failed in the middle of it: nothing is recorded twice.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.store.db import utils as database
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient

from k2core.tracking.address import lives
from k2core.tracking.champion import register
from k2core.tracking.experiment import KIND, PIPELINE, ensure_experiment, run_link, stages_link
from k2core.tracking.headlines import SECONDS, STAGE_SECONDS, metrics_file, select
from k2core.tracking.lock import LockedStage, data_deps, downstream, outdated
from k2core.tracking.models import EXPORT, TASKS, Models
from k2core.tracking.output_page import page
from k2core.tracking.recipe import RecipeChange
from k2core.tracking.reference import reference
from k2core.tracking.spool import LOST
from k2core.tracking.summary import Before, Outcome, description, run_name
from k2core.tracking.traces import log_trace
from k2core.tracking.uri import tracking_uri

database.MAX_RETRY_COUNT = 1
"""MLflow would try a broken database for 100 s. The recorder's spool waits, and its messages are on disk meanwhile."""
BATCH = 100
CONTEXT = "mlflow.data.context"
MOST_PARAMETERS = 50
"""Most changed keys that a pipeline run has as parameters: more than a page can compare is no help."""
NOTE = "mlflow.note.content"
"""The tag that MLflow shows as description."""
MACHINE = "system/"
REPORT, REPORT_PAGE = "report", "report/index.html"
"""The stage that logs the page about the whole run, and its artifact."""
STATE = ("parent", "invocation", "pid", "began", "stages", "statuses", "errors", "skipped", "outcome")


class PipelineRuns:
    """Creates and closes the runs of one invocation, the first with `begin`.

    Not thread-safe: the recorder calls it from one thread.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.uri = root.resolve(), tracking_uri(root)
        self.client = MlflowClient(self.uri)
        self.experiment_id = ensure_experiment(self.client, root)
        self.parent, self.invocation, self.pid = "", "", 0
        self.recipe = RecipeChange("", {})
        self.began = 0
        self.stages: dict[str, str] = {}
        """Stage name → id of its latest run in this invocation."""
        self.statuses: dict[str, str] = {}
        self.errors: dict[str, str] = {}
        self.open: dict[str, tuple[str, str]] = {}
        """Connection number → (stage, run id) of stages under way."""
        self.skipped: dict[str, str] = {}
        self.outcome: dict[str, Any] = {}
        self._makers: dict[str, Run | None] = {}
        self._monitors: dict[str, SystemMetricsMonitor] = {}
        """Run id → what samples the machine (`system/…`: CPU, memory, disk, network, GPUs) while its stage runs."""

    def state(self) -> dict[str, Any]:
        """What another process needs to go on with these runs."""
        values = {name: getattr(self, name) for name in STATE}
        return values | {"experiment": self.experiment_id, "open": self.open, "recipe": asdict(self.recipe)}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from the `state` of a process that has ended; with new runs, if the store is not the one it knew."""
        for name in STATE:
            setattr(self, name, state[name])
        self.open = {number: (stage, run_id) for number, (stage, run_id) in state["open"].items()}
        self.recipe = _recipe(state["recipe"])
        try:
            self.client.set_tag(self.parent, "k2.recorder", _identity(os.getpid()))
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                raise
            self._begin_anew()
        self._close_orphans()  # one made just before the kill is in no state

    def _begin_anew(self) -> None:
        """A new pipeline run with the stages under way: what has ended went with the store that was removed."""
        under_way, self.open = self.open, {}
        self.parent, self.stages, self.statuses, self.errors, self.skipped = "", {}, {}, {}, {}
        facts = {"recipe": asdict(self.recipe), "time": self.began, "invocation": self.invocation, "pid": self.pid}
        self.begin(facts)
        for number, (stage, _) in under_way.items():
            self.start_stage(number, {"stage": stage, "time": self.began, "params": {}, "inputs": {}}, watch=False)

    def begin(self, message: dict[str, Any]) -> None:
        """The pipeline run, with the keys of the recipe that differ from its base as parameters."""
        self._close_orphans()
        self.recipe, self.began = _recipe(message["recipe"]), message["time"]
        self.invocation, self.pid = message["invocation"], message["pid"]
        if not self.parent:
            tags = {KIND: PIPELINE, "k2.recorder": _identity(os.getpid()), "k2.pid": str(self.pid)}
            self.parent = self._create(run_name(self.recipe, "running"), tags, self.began)
        changed = [(key, here) for key, (_, here) in self.recipe.changed.items()][:MOST_PARAMETERS]
        self._params(self.parent, [("recipe", self.recipe.base), *changed])

    def start_stage(self, number: str, message: dict[str, Any], watch: bool) -> str:
        """A nested run with the stage's parameters and its inputs as datasets. Returns its id.

        Args:
            number: the connection over which the stage speaks.
            watch: whether the stage runs now, so that the machine under it can be sampled.
        """
        stage = message["stage"]
        if number not in self.open:
            tags = {"k2.state": "executed", "k2.recorder": _identity(os.getpid()), NOTE: message.get("about", "")}
            run_id = self._nested(stage, tags, message["time"])
            self.open[number], self.stages[stage] = (stage, run_id), run_id
        run_id = self.open[number][1]
        self._params(run_id, [(key, value) for key, value in flatten(message["params"])])
        self._datasets(run_id, message["inputs"], "input")
        if watch:
            self._watch(run_id)
        return run_id

    def metrics(self, number: str, message: dict[str, Any]) -> None:
        """Log one message's figures."""
        if number in self.open:
            self._log(self.open[number][1], message["values"], message["time"], message["step"])

    def outputs(self, number: str, message: dict[str, Any]) -> None:
        """Log what a stage has made: small files, if they are still as they were, and a page about all others."""
        if number not in self.open:
            return
        run_id = self.open[number][1]
        for output in message["outputs"]:
            for file in output["files"]:
                place = Path(message["root"], file["path"])
                if "changed" in file and place.exists() and place.stat().st_mtime_ns == file["changed"]:
                    self.client.log_artifact(run_id, str(place), str(Path(file["path"]).parent))
            if any("changed" not in file for file in output["files"]):
                self.client.log_text(run_id, page(output), f"{output['path']}.html")

    def trace(self, number: str, message: dict[str, Any]) -> None:
        """Log a dialogue."""
        if number in self.open:
            stage, run_id = self.open[number]
            about = {"stage": stage, **message["about"]}
            log_trace(
                self.uri, self.experiment_id, run_id, message["name"], message["messages"], about, message["time"]
            )

    def end_stage(self, number: str, message: dict[str, Any]) -> None:
        """Close a stage's run as FINISHED, FAILED or KILLED."""
        if number not in self.open:
            return
        (stage, run_id), status, error = self.open[number], message["status"], message["error"]
        if error:
            self.client.set_tag(run_id, "k2.error", error[:4900])
            self.client.set_tag(run_id, NOTE, f"> {' '.join(error.split())[:4900]}")
        if run_id in self._monitors:
            self._monitors.pop(run_id).finish()
        if status != LOST:
            self.statuses[stage], self.errors[stage] = status, error
        self._end(run_id, "KILLED" if status == LOST else status, message["time"])
        del self.open[number]

    def tag_parent(self, tags: dict[str, str]) -> None:
        """Tags of the whole pipeline run, e.g. the Prefect flow run's id and page."""
        for key, value in tags.items():
            self.client.set_tag(self.parent, key, value)

    def watch_again(self) -> None:
        """Sample the machine for the stages under way: a sampler ends at the first fault of MLflow."""
        for _, run_id in self.open.values():
            self._watch(run_id)

    def finish(self, message: dict[str, Any]) -> str:
        """After the pipeline's process has ended: outputs' digests, skipped stages, figures, name, the parent's status.

        Args:
            message: `lock`: `dvc.lock`'s stages, `metrics`: file name → figures, both as they were then.
        """
        lock = {entry["name"]: LockedStage(**entry) for entry in message["lock"]}
        ended = {stage for stage, status in self.statuses.items() if status == "FINISHED"}
        for stage in ended & set(lock):
            self._datasets(self.stages[stage], lock[stage].outs, "output")
            self.client.set_tag(self.stages[stage], "dvc.fingerprint", lock[stage].fingerprint)
            self._references(self.stages[stage], lock[stage])
        failed = sorted(set(self.statuses) - ended)
        stale = downstream(lock, outdated(lock) | set(failed) | (set(self.stages) - set(lock)))
        cached = [stage for name, stage in lock.items() if name not in self.stages and name not in stale]
        for unchanged in cached:
            self._skipped(unchanged, message)
        self._models(lock, ended & set(lock))
        stopped = "KILLED" if "KILLED" in self.statuses.values() else "FAILED"
        outcome = Outcome(
            status=self.outcome.get("status") or (stopped if failed else "FINISHED"),
            error=self.outcome.get("error") or next((self.errors[stage] for stage in failed), ""),
            seconds=self.outcome.get("seconds") or (message["time"] - self.began) / 1000,
            ran=[stage for stage in self.stages if stage in ended],
            cached=[stage.name for stage in cached],
            failed=failed,
        )
        figures = select(message["metrics"], self.root / "params.yaml", without=(stale | set(self.stages)) - ended)
        self._summarise(outcome, figures, message["time"])
        return outcome.status

    def _references(self, run_id: str, stage: LockedStage) -> None:
        """How to fetch each output: MLflow has no copy of the large ones."""
        found = [reference(self.root, path, md5, stage.sizes.get(path)) for path, md5 in stage.outs.items()]
        self.client.log_dict(run_id, {"outputs": found}, "references.json")

    def _models(self, lock: dict[str, LockedStage], ran: set[str]) -> None:
        """The models of this run's stages and of those that were skipped; a new export becomes a registered version."""
        runs = {name: maker.info.run_id for name, maker in self._makers.items() if maker}
        runs |= {name: self.stages[name] for name in ran}
        models = Models(self.client, self.experiment_id, self.root, lock, runs)
        models.connect(sorted(ran), self.parent)
        for made in models.found.values():
            if made.stage.name == EXPORT and EXPORT in ran:
                evaluation = models.evaluation(made)
                tasks = data_deps(evaluation).get(TASKS, "") if evaluation else ""
                tags = {"k2.md5": made.md5, "k2.path": made.path, "k2.pipeline": self.parent}
                register(self.client, made.model_id, made.run_id, tags, tasks)

    def _summarise(self, outcome: Outcome, figures: dict[str, float], time: int) -> None:
        name = run_name(self.recipe, outcome.words)
        made = [self.client.get_run(self.stages[stage]) for stage in outcome.ran]
        made += [maker for stage in outcome.cached if (maker := self._makers[stage])]
        seconds = [value for run in made if (value := run.data.metrics.get(STAGE_SECONDS))]
        if outcome.status == "FINISHED" and len(seconds) == len(outcome.ran) + len(outcome.cached):
            figures = figures | {SECONDS: sum(seconds)}
        links = {"Its stages": stages_link(self.experiment_id, self.parent)}
        report = self.stages[REPORT] if REPORT in outcome.ran else getattr(self._makers.get(REPORT), "info", None)
        if report:
            run_id = report if isinstance(report, str) else report.run_id
            links["The report"] = run_link(self.experiment_id, run_id, REPORT_PAGE)
        flow = self.client.get_run(self.parent).data.tags.get("prefect.flow_run_url")
        if flow:
            links["The flow run in Prefect"] = flow
        self._log(self.parent, figures, time, 0)
        text = description(self.recipe, outcome, figures, self._before(), links)
        self.client.set_tag(self.parent, NOTE, text[:7900])
        if outcome.error:
            self.client.set_tag(self.parent, "k2.error", outcome.error[:4900])
        self.client.update_run(self.parent, name=name)
        self._end(self.parent, outcome.status, time)

    def _before(self) -> Before | None:
        """The latest finished pipeline run that began before this one."""
        found = self.client.search_runs(
            [self.experiment_id],
            f"tags.`{KIND}` = '{PIPELINE}' and attributes.status = 'FINISHED' and attributes.start_time < {self.began}",
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
        if not found:
            return None
        link = run_link(self.experiment_id, found[0].info.run_id)
        return Before(found[0].info.run_name, link, found[0].data.metrics)

    def _skipped(self, stage: LockedStage, message: dict[str, Any]) -> None:
        if stage.name in self.skipped and stage.name in self._makers:
            return
        maker = made_by(self.client, self.experiment_id, stage)
        if stage.name not in self.skipped:
            tags = {
                "k2.state": "skipped",
                "dvc.fingerprint": stage.fingerprint,
                "k2.produced_by": maker.info.run_id if maker else "unknown",
                NOTE: (
                    f"DVC skipped this stage: nothing it depends on has changed. Its outputs and figures are of run "
                    f"[{maker.info.run_id}]({run_link(self.experiment_id, maker.info.run_id)})."
                    if maker
                    else "No run in this MLflow store made this stage's outputs; its figures are of its metrics file."
                ),
            }
            self.skipped[stage.name] = self._nested(stage.name, tags, message["time"])
        run_id = self.skipped[stage.name]
        self._datasets(run_id, data_deps(stage), "input")
        self._datasets(run_id, stage.outs, "output")
        figures = maker.data.metrics if maker else message["metrics"].get(metrics_file(stage.name), {})
        self._log(run_id, {k: v for k, v in figures.items() if not k.startswith(MACHINE)}, message["time"], 0)
        self._end(run_id, "FINISHED", message["time"])
        self._makers[stage.name] = maker

    def _watch(self, run_id: str) -> None:
        if run_id in self._monitors:
            self._monitors.pop(run_id).finish()
        self._monitors[run_id] = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=self.uri)
        self._monitors[run_id].start()

    def _params(self, run_id: str, pairs: list[tuple[str, Any]]) -> None:
        params = [Param(key, str(value)[:6000]) for key, value in pairs]
        for start in range(0, len(params), BATCH):
            self.client.log_batch(run_id, params=params[start : start + BATCH])

    def _log(self, run_id: str, values: dict[str, float], time: int, step: int) -> None:
        metrics = [Metric(key, float(value), time, step) for key, value in values.items()]
        for start in range(0, len(metrics), BATCH):
            self.client.log_batch(run_id, metrics=metrics[start : start + BATCH])

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

    def _nested(self, stage: str, tags: dict[str, str], time: int) -> str:
        above = {
            key: value
            for key, value in self.client.get_run(self.parent).data.tags.items()
            if key.startswith("prefect.")
        }
        return self._create(stage, {"mlflow.parentRunId": self.parent, "k2.stage": stage, **tags, **above}, time)

    def _create(self, name: str, tags: dict[str, str], time: int) -> str:
        tags = {**tags, **git_state(self.root), "mlflow.source.name": "dvc.yaml"}
        return self.client.create_run(self.experiment_id, time, tags, name).info.run_id

    def _end(self, run_id: str, status: str, time: int) -> None:
        self.client.set_terminated(run_id, status, end_time=time)

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
    """Commit and cleanness of the workspace; empty outside git, and where git is not installed."""
    if not shutil.which("git"):
        return {}

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False).stdout.strip()

    commit = git("rev-parse", "--verify", "-q", "HEAD")
    dirty = git("status", "--porcelain", "--untracked-files=no")
    return (
        {"git.commit": commit, "mlflow.source.git.commit": commit, "git.dirty": str(bool(dirty)).lower()}
        if commit
        else {}
    )


def _recipe(facts: dict[str, Any]) -> RecipeChange:
    return RecipeChange(facts["base"], {key: (base, here) for key, (base, here) in facts["changed"].items()})


def _identity(pid: int) -> str:
    return f"{platform.node()}:{pid}:{psutil.Process(pid).create_time()}"


def _alive(identity: str) -> bool:
    machine, _, process = identity.partition(":")
    if machine != platform.node():
        return True  # for all that can be known here: machines may share a store
    pid, _, born = process.partition(":")
    return bool(pid and born) and lives(int(pid), float(born))


def made_by(client: MlflowClient, experiment: str, stage: LockedStage) -> Run | None:
    """The executed run whose `dvc.lock` entry is the stage's present one."""
    query = f"tags.`dvc.fingerprint` = '{stage.fingerprint}' and tags.`k2.state` = 'executed'"
    found = client.search_runs([experiment], query, max_results=1)
    return found[0] if found else None
