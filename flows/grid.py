"""A grid over parameters: each point a DVC experiment in a folder of its own, compared in MLflow."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml
from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed, State

from flows.chain import Stage
from flows.links import flow_run_address, mlflow_address
from flows.overrides import override
from flows.settings import ROOT, apply_settings
from flows.workspace import ProcessTrees, StageFailed, hold
from k2core.recipe import RecipeError
from k2core.tracking.address import RECORDS
from k2core.tracking.client import connect
from k2core.tracking.experiment import ensure_experiment, found_link
from k2core.tracking.headlines import headlines
from k2core.tracking.uri import tracking_uri

GRID = "k2.grid"
"""Tag of the pipeline runs of a grid."""
TREES: list[ProcessTrees] = []


def points(changes: list[str]) -> list[tuple[str, ...]]:
    """Every combination of values: ``["rl.tau=0.1,0.2", "rl.samples=4,8"]`` makes four points of two overrides each.

    Raises:
        RecipeError: a change is not `key=value,value,…`.
    """
    axes = []
    for change in changes:
        key, equals, values = change.partition("=")
        try:
            found = yaml.safe_load(f"[{values}]")
        except yaml.YAMLError:
            found = []
        if not equals or not found:
            raise RecipeError(f"{change!r} is no axis of a grid; write key=value,value, e.g. rl.tau=0.1,0.2")
        axes.append([f"{key.strip()}={json.dumps(value)}" for value in found])
    return list(itertools.product(*axes))


@task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def run_point(grid: str, name: str, overrides: tuple[str, ...], targets: list[str]) -> State:
    """One DVC experiment, `dvc exp run --temp`; its pipeline run in MLflow has the tag of the grid."""
    records = ROOT / "work" / "grid" / name
    shutil.rmtree(records, ignore_errors=True)
    shutil.copytree(ROOT / "recipes", records / "recipes")
    (records / "params.yaml").write_text(override((ROOT / "params.yaml").read_text(), overrides))
    words = [sys.executable, "-m", "dvc", "--wait-for-lock", "exp", "run", "--temp", "--name", name]
    words += [word for change in overrides for word in ("--set-param", change)]
    environment = {
        RECORDS: str(records),
        "GIT_COMMITTER_NAME": "k2", "GIT_COMMITTER_EMAIL": "k2@localhost",
        "GIT_AUTHOR_NAME": "k2", "GIT_AUTHOR_EMAIL": "k2@localhost",
    }  # fmt: skip
    trees, recorder = ProcessTrees(), None

    def recorded(pid: int) -> None:
        nonlocal recorder
        recorder = connect(records, pid)
        tags = {GRID: grid, "prefect.flow_run_url": flow_run_address(str(runtime.flow_run.id))}
        if recorder:
            recorder.sendall(json.dumps({"type": "tags", "tags": tags}).encode() + b"\n")

    TREES.append(trees)
    log, started, fault = ROOT / "logs" / f"{name}.log", time.monotonic(), ""
    try:
        trees.run(
            [*words, *targets], ROOT, log, float("inf"), get_run_logger().info, environment=environment, begun=recorded
        )
    except StageFailed as error:
        fault = str(error)
    finally:
        _fetch(name, records)
        if recorder:
            status = "KILLED" if trees.stopping else "FAILED" if fault else "FINISHED"
            outcome = {"type": "outcome", "status": status, "error": fault, "seconds": time.monotonic() - started}
            recorder.sendall(json.dumps(outcome).encode() + b"\n")
            recorder.close()
    if fault:
        return Failed(message=f"{fault} (the whole output: logs/{log.name})")
    return Completed(message=", ".join(f"{key} {value:.4g}" for key, value in headlines(records).items()))


def _fetch(name: str, records: Path) -> None:
    """The small files of an experiment that has ended, for the record: what ran, and its figures."""
    listed = subprocess.run(
        ["git", "for-each-ref", "--format=%(refname)", "refs/exps"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    for ref in (ref for ref in listed if ref.endswith(f"/{name}")):
        archive = subprocess.run(
            ["git", "archive", ref, "dvc.lock", "metrics"], cwd=ROOT, capture_output=True, check=False
        )
        subprocess.run(["tar", "-x", "-C", records], input=archive.stdout, check=False)


@flow(name="k2-grid", log_prints=True)
def grid(changes: list[str], targets: list[Stage] = []) -> State:  # type: ignore[valid-type] # noqa: B006
    """Try every combination of values, each as a DVC experiment; the workspace stays as it is.

    Args:
        changes: One entry a key, `key=value,value,…`, e.g. `rl.tau=0.05,0.1,0.2`.
        targets: Only these stages and what they need. Empty: the whole chain.
    """
    apply_settings()
    try:
        combinations = points(changes)
    except RecipeError as error:
        return Failed(message=str(error))
    from mlflow.tracking import MlflowClient

    experiment = ensure_experiment(MlflowClient(tracking_uri(ROOT)), ROOT)
    os.environ["MLFLOW_TRACKING_URI"] = tracking_uri(ROOT)  # an experiment's folder has none of its own
    name = re.sub(r"[^a-z0-9]+", "-", str(runtime.flow_run.name).lower()).strip("-")
    print(f"{len(combinations)} experiments, one after the other")
    with hold(ROOT, {"grid": name}, get_run_logger().info if runtime.deployment.id else None):
        states, rows = [], []
        try:
            for number, overrides in enumerate(combinations, 1):
                point = f"{name}-{number}"
                state = run_point(name, point, overrides, list(targets), return_state=True)
                states.append(state)
                figures = {key: f"{value:.4g}" for key, value in headlines(ROOT / "work" / "grid" / point).items()}
                rows.append({"experiment": point, "state": state.name, "changes": ", ".join(overrides), **figures})
        finally:
            for trees in TREES:
                trees.stop()
            create_table_artifact(key="k2-grid", table=rows, description="`dvc exp apply NAME` brings one here")
            link = f"{mlflow_address()}/" + found_link(experiment, f"tags.`{GRID}` = '{name}'")
            create_link_artifact(key="k2-grid-mlflow", link=link, link_text="These runs in MLflow, to compare")
    failed = [state for state in states if not state.is_completed()]
    if failed:
        return Failed(message=f"{len(failed)} of {len(states)} experiments failed: {failed[0].message}")
    return Completed(message=f"{len(states)} experiments; `dvc exp show` lists them")
