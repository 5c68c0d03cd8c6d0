"""The flow itself. Imported only after `flows.pipeline` has set Prefect up (importing Prefect takes seconds)."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.states import Completed, State
from prefect.task_runners import ThreadPoolTaskRunner

from flows.graph import Graph, read_graph
from flows.pipeline import ROOT
from flows.workspace import ProcessTrees, TransientFailure, hold, on_signal
from k2core.tracking.address import INVOCATION
from k2core.tracking.client import connect

TREES = ProcessTrees()
OUTCOMES: dict[str, Outcome] = {}
"""What became of each stage of the run in this process."""
SKIPPED = "didn't change, skipping"
CHATTER = ("To track the changes", "git add ", "To enable auto staging", "dvc config core.autostage", "Use `dvc push`")
"""What DVC says after every stage; it stays in the stage's log file."""


@dataclass
class Outcome:
    """What the summary says of a stage."""

    state: str = "not reached"
    seconds: float = 0.0
    attempts: int = field(default=0)


def _is_transient(task, task_run, state: State) -> bool:
    try:
        state.result()
    except TransientFailure:
        return not TREES.stopping
    except BaseException:  # noqa: BLE001 (any other fault is permanent; Prefect reports it)
        return False
    return False


@task(
    task_run_name="{stage}",
    cache_policy=NO_CACHE,
    retries=2,
    retry_delay_seconds=[2, 20],
    retry_jitter_factor=0.5,
    retry_condition_fn=_is_transient,
    persist_result=False,
)
def run_stage(stage: str, needed: bool, force: bool) -> State:
    """One stage through `dvc repro --single-item`; its output becomes the task's log."""
    logger = get_run_logger()
    outcome, started = OUTCOMES[stage], time.monotonic()
    outcome.state, outcome.attempts = "failed", outcome.attempts + 1
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        if not line.strip().startswith(CHATTER):
            logger.info(line)

    if needed:
        words = ["dvc", "--wait-for-lock", "repro", "--single-item", *(["--force"] if force else []), stage]
        TREES.run(words, ROOT, ROOT / "logs" / f"{stage}.log", on_line)
    outcome.seconds += time.monotonic() - started
    if not needed or any(SKIPPED in line for line in lines):
        outcome.state = "cached"
        return Completed(name="Cached", message="DVC: nothing this stage depends on has changed")
    outcome.state = "done"
    return Completed(message=f"{stage} took {outcome.seconds:.1f} s")


@flow(name="k2", log_prints=True)
def pipeline(targets: list[str] | None = None, force: bool = False) -> None:
    """The whole recipe. `targets`: only these stages and what they need. `force`: run unchanged ones too."""
    os.chdir(ROOT)
    logger = get_run_logger()
    TREES.stopping = False
    on_signal(TREES.stop)
    flow_run = str(runtime.flow_run.id)
    with hold(ROOT, {"flow run": str(runtime.flow_run.name), "id": flow_run, "since": time.strftime("%F %T")}):
        graph = read_graph(ROOT, tuple(targets or ()))
        needed = set(graph.stages) if force else graph.may_run()
        workers = parallel_stages()
        logger.info(f"{len(graph.stages)} stages, {len(needed)} to look at, {workers} at a time")
        recorder = _announce(flow_run)
        OUTCOMES.clear()
        OUTCOMES.update({stage: Outcome() for stage in graph.stages})
        try:
            with ThreadPoolTaskRunner(max_workers=workers) as runner:
                futures: dict[str, PrefectFuture] = {}
                for stage in graph.stages:
                    futures[stage] = runner.submit(
                        run_stage,
                        {"stage": stage, "needed": stage in needed, "force": force},
                        wait_for=[futures[name] for name in graph.upstream[stage]],
                    )
                for future in futures.values():
                    future.wait()
        finally:
            TREES.stop()
            _artifacts(graph, OUTCOMES)
            if recorder:
                recorder.close()
        failed = [stage for stage, outcome in OUTCOMES.items() if outcome.state == "failed"]
        if failed:
            raise RuntimeError(f"stage {', '.join(failed)} failed; its output is in logs/{failed[0]}.log")


def parallel_stages() -> int:
    """How many stages may run at once: as many as have the recipe's threads to themselves."""
    threads = yaml.safe_load((ROOT / "params.yaml").read_text()).get("compute", {}).get("threads", 1)
    return max(1, (os.cpu_count() or 1) // max(1, int(threads)))


def _announce(flow_run: str):
    """Start the recorder for this run even if every stage is cached, and give it Prefect's ids."""
    os.environ[INVOCATION] = str(os.getpid())
    connection = connect(ROOT)
    if connection:
        url = runtime.flow_run.ui_url or ""
        tags = {"prefect.flow_run_id": flow_run, "prefect.flow_run_url": url}
        connection.sendall(json.dumps({"type": "tags", "tags": {k: v for k, v in tags.items() if v}}).encode() + b"\n")
    return connection


def _artifacts(graph: Graph, outcomes: dict[str, Outcome]) -> None:
    """What a person opens first: the graph, the table of stages, the way to MLflow."""
    colour = {"done": "#2da44e", "cached": "#8c959f", "failed": "#cf222e", "not reached": "#d0d7de"}
    ids = {stage: f"s{number}" for number, stage in enumerate(graph.stages)}
    lines = ["```mermaid", "graph TD"]
    lines += [f'  {ids[stage]}["{stage}"]' for stage in graph.stages]
    lines += [f"  {ids[above]} --> {ids[stage]}" for stage in graph.stages for above in graph.upstream[stage]]
    lines += [f"  style {ids[stage]} fill:{colour[outcomes[stage].state]}" for stage in graph.stages]
    rows = [
        {
            "stage": stage,
            "state": outcome.state,
            "seconds": round(outcome.seconds, 1),
            "attempts": outcome.attempts,
            "figures": main_figures(ROOT / "metrics" / f"{stage.replace('@', '-')}.json"),
        }
        for stage, outcome in outcomes.items()
    ]
    create_markdown_artifact(
        key="k2-graph", markdown="\n".join([*lines, "```"]), description="The stage graph, coloured by state"
    )
    create_table_artifact(key="k2-stages", table=rows, description="State, time and main figures of every stage")
    server = os.environ.get("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    link = server if server.startswith("http") else "http://127.0.0.1:5000"
    state = ROOT / "work" / "tracking.json"
    known = json.loads(state.read_text()) if state.exists() else {}
    if known.get("pid") == os.getpid():
        link += f"/#/experiments/{known['experiment']}/runs/{known['parent']}"
    create_link_artifact(key="k2-mlflow", link=link, link_text="This run in MLflow (`make ui` starts the page)")
    width = max(map(len, outcomes))
    for row in rows:
        print(f"{row['stage']:<{width}}  {row['state']:<11} {row['seconds']:>7.1f} s  {row['figures']}")


def main_figures(path: Path, most: int = 3) -> str:
    """The first figures of a stage's metrics file, for a table's cell."""
    if not path.exists():
        return ""
    figures = json.loads(path.read_text())
    return ", ".join(f"{key} {value:.4g}" for key, value in list(figures.items())[:most])
