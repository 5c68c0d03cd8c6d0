"""A grid over parameters: each point is a DVC experiment in a folder of its own, compared in MLflow."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed, State

from flows.chain import Stage
from flows.choice import check_recipe
from flows.graph import stage_names
from flows.links import flow_run_address, mlflow_address
from flows.overrides import Change, as_text, override, values_of
from flows.settings import ROOT, apply_settings
from flows.workspace import ProcessTrees, StageFailed
from k2core.recipe import Limits, RecipeError, load_section
from k2core.storage import write_text
from k2core.storage.foreign import one_line
from k2core.storage.private import hide
from k2core.tracking.address import RECORDS
from k2core.tracking.client import StageRun, connect
from k2core.tracking.experiment import ensure_experiment, found_link
from k2core.tracking.headlines import headlines
from k2core.tracking.holding import hold
from k2core.tracking.uri import tracking_uri

GRID = "k2.grid"
"""Tag of the pipeline runs of a grid."""


def points(changes: list[str]) -> list[tuple[str, ...]]:
    """Every combination of values: ``["rl.tau=0.1,0.2", "rl.samples=4,8"]`` makes four points of two overrides each.

    Raises:
        RecipeError: a change is not `key=value,value,…`.
    """
    axes = []
    for change in changes:
        key, equals, text = change.partition("=")
        values = values_of(f"[{text}]", change) if equals else []
        if not values:
            raise RecipeError(f"{change!r} is not an axis of a grid; write key=value,value, e.g. rl.tau=0.1,0.2")
        axes.append([f"{key.strip()}={as_text(value)}" for value in values])
    return list(itertools.product(*axes))


def records_of(point: str) -> Path:
    """Where the records of an experiment are collected; DVC removes the experiment's own folder when it has ended."""
    return ROOT / "work" / "grid" / point


def prepare(point: str, overrides: tuple[str, ...]) -> None:
    """Write the recipe of a point.

    Raises:
        ValueError: it is not valid.
    """
    records = records_of(point)
    shutil.rmtree(records, ignore_errors=True)
    shutil.copytree(ROOT / "recipes", records / "recipes")
    write_text(records / "params.yaml", override((ROOT / "params.yaml").read_text(encoding="utf-8"), overrides))
    check_recipe(ROOT, records / "params.yaml")


@task(task_run_name="{point}", cache_policy=NO_CACHE, persist_result=False)
def run_point(grid: str, point: str, overrides: tuple[str, ...], targets: list[str]) -> State:
    """One DVC experiment, `dvc exp run --temp`; its pipeline run in MLflow has the tag of the grid."""
    words = [sys.executable, "-m", "dvc", "--wait-for-lock", "exp", "run", "--temp", "--name", point]
    words += [word for change in overrides for word in ("--set-param", change)]
    someone = {f"GIT_{who}_{what}": "k2@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    trees, recorder, records = ProcessTrees(), StageRun(None), records_of(point)

    def begun(pid: int) -> None:
        nonlocal recorder
        recorder = StageRun(connect(records, pid))
        url = flow_run_address(str(runtime.flow_run.id))
        recorder.send(type="tags", tags={GRID: grid, "prefect.flow_run_url": url})

    log, started = ROOT / "logs" / f"{point}.log", time.monotonic()
    limits = load_section(Limits, ROOT / "params.yaml", "limits")
    limit = sum(limits.seconds(stage) for stage in stage_names(ROOT))
    status, fault = "KILLED", "cancelled"
    try:
        trees.run(
            [*words, *targets], ROOT, log, limit, get_run_logger().info, {RECORDS: str(records), **someone}, begun
        )
        status, fault = "FINISHED", ""
    except StageFailed as error:
        status, fault = "FAILED", str(error)
    finally:
        trees.stop()
        _fetch(point, records)
        recorder.send(type="outcome", status=status, error=fault, seconds=time.monotonic() - started)
        recorder.hang_up()
    if fault:
        return Failed(message=f"{fault} (the whole output: logs/{log.name})")
    return Completed(message=", ".join(f"{key} {value}" for key, value in _figures(point).items()))


def _figures(point: str) -> dict[str, str]:
    """What an experiment is judged by, to read."""
    return {key: f"{value:.4g}" for key, value in headlines(records_of(point), ROOT / "params.yaml").items()}


def _fetch(point: str, records: Path) -> None:
    """Copy the small files of an experiment that has ended: what ran, and its figures."""
    listed = subprocess.run(
        ["git", "for-each-ref", "--format=%(refname)", "refs/exps"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    for ref in (ref for ref in listed if ref.endswith(f"/{point}")):
        archive = subprocess.run(
            ["git", "archive", ref, "dvc.lock", "metrics"], cwd=ROOT, capture_output=True, check=False
        )
        subprocess.run(["tar", "-x", "-C", records], input=archive.stdout, check=False)


@flow(name="k2-grid", log_prints=True)
def grid(changes: list[Change], targets: list[Stage] = []) -> State:  # noqa: B006
    """Try every combination of values, each as a DVC experiment; the workspace stays as it is.

    Args:
        changes: One entry per key, `key=value,value,…`, e.g. `rl.tau=0.05,0.1,0.2`.
        targets: Only these stages and what they need. Empty: the whole chain.
    """
    apply_settings()
    name = re.sub(r"[^a-z0-9]+", "-", str(runtime.flow_run.name).lower()).strip("-")
    try:
        combinations = {f"{name}-{number}": point for number, point in enumerate(points(changes), 1)}
        for point, overrides in combinations.items():
            prepare(point, overrides)
    except ValueError as error:
        return Failed(message=str(error))
    from mlflow.tracking import MlflowClient

    try:
        experiment = ensure_experiment(MlflowClient(tracking_uri(ROOT)), ROOT)
    except Exception as error:  # noqa: BLE001 (SQLAlchemy's too, a driver that is not installed)
        return Failed(message=f"MLflow, in which a grid is compared, gives no answer ({one_line(error)})")
    hide(ROOT / "mlflow.db")
    os.environ["MLFLOW_TRACKING_URI"] = tracking_uri(ROOT)  # an experiment's folder has none of its own
    print(f"{len(combinations)} experiments, one after the other")
    with hold(ROOT, {"grid": name}, get_run_logger().info if runtime.deployment.id else None):
        states, rows = [], []
        try:
            for point, overrides in combinations.items():
                states.append(run_point(name, point, overrides, list(targets), return_state=True))
                figures = _figures(point)
                rows.append({"experiment": point, "state": states[-1].name, "changes": ", ".join(overrides), **figures})
        finally:
            create_table_artifact(key="k2-grid", table=rows, description="`dvc exp apply NAME` brings one here")
            link = f"{mlflow_address()}/" + found_link(experiment, f"tags.`{GRID}` = '{name}'")
            create_link_artifact(key="k2-grid-mlflow", link=link, link_text="These runs in MLflow, to compare")
    failed = [state for state in states if not state.is_completed()]
    if failed:
        return Failed(message=f"{len(failed)} of {len(states)} experiments failed: {failed[0].message}")
    return Completed(message=f"{len(states)} experiments; `dvc exp show` lists them")
