"""The chain as a Prefect flow: a task per stage of `dvc.yaml`, which runs ``dvc repro --single-item STAGE``."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import yaml
from prefect import flow, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import FailedRun, TerminationSignal
from prefect.futures import PrefectFuture
from prefect.states import Cancelled, Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner

from flows.cancelling import end_without_server, obey, server_answers
from flows.choice import Choice, recipe_names
from flows.graph import Graph, read_graph, stage_names
from flows.kept import Kept
from flows.links import flow_run_address
from flows.outcome import Outcome
from flows.overrides import Change
from flows.settings import ROOT, apply_settings
from flows.summary import Before, summary
from flows.workspace import ProcessTrees, StageFailed, TransientFailure
from k2core.recipe import Limits, load_section
from k2core.tracking.address import INVOCATION
from k2core.tracking.client import tell
from k2core.tracking.holding import hold
from k2core.tracking.recipe import shortly

RETRY_DELAYS = (2, 20)
SKIPPED = "didn't change, skipping"
CHATTER = ("To track the changes", "git add ", "To enable auto staging", "dvc config core.autostage", "Use `dvc push`",
           "ERROR: failed to reproduce")  # fmt: skip
"""What DVC says after every stage; it stays in the stage's log file."""
AS_IT_IS, BEGINNING = "as it is", "the beginning"
if TYPE_CHECKING:  # what the page's form offers is known only at run time
    Recipe = str
    Stage = str
    From = str
else:
    Recipe = Literal[(AS_IT_IS, *recipe_names(ROOT))]
    Stage = Literal[tuple(stage_names(ROOT))]
    From = Literal[(BEGINNING, *stage_names(ROOT))]


@dataclass
class Run:
    """The run in this process: its processes and what has become of each stage."""

    limits: Limits
    trees: ProcessTrees = field(default_factory=ProcessTrees)
    outcomes: dict[str, Outcome] = field(default_factory=dict)


def _is_unreported(record: logging.LogRecord) -> bool:
    """False for what the flow says itself: a failure that is its state, and a line for each stage after it."""
    told = record.exc_info and isinstance(record.exc_info[1], FailedRun)
    return not told and "in state NotReady" not in record.getMessage()


RUN: Run | None = None
"""Prefect hands a task its arguments only, and pickles them."""


def _is_transient(task: Any, task_run: Any, state: State) -> bool:
    try:
        state.result()
    except TransientFailure:
        return RUN is not None and not RUN.trees.stopping
    except BaseException:  # noqa: BLE001 (any other fault is permanent; Prefect reports it)
        return False
    return False


@task(
    task_run_name="{stage}",
    cache_policy=NO_CACHE,
    retries=len(RETRY_DELAYS),
    retry_delay_seconds=list(RETRY_DELAYS),
    retry_jitter_factor=0.5,
    retry_condition_fn=_is_transient,
    persist_result=False,
)
def run_stage(stage: str, needed: bool, force: bool, address: str = "") -> State:
    """One stage through `dvc repro --single-item`; its output becomes the task's log.

    Args:
        address: what DVC calls the stage, if it is not in the project's main `dvc.yaml`.
    """
    assert RUN is not None
    logger = get_run_logger()
    outcome, started = RUN.outcomes[stage], time.monotonic()
    outcome.state, outcome.attempts = "running", outcome.attempts + 1
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        if not line.strip().startswith(CHATTER):
            logger.info(line)

    if needed:
        words = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item"]
        words += [*(["--force"] if force else []), address or stage]
        log = ROOT / "logs" / f"{stage}.log"
        try:
            RUN.trees.run(words, ROOT, log, RUN.limits.seconds(stage), on_line)
        except (StageFailed, OSError) as error:  # OSError: no room for the log, no process to be had
            outcome.error = str(error)
            if RUN.trees.stopping:
                outcome.state = "cancelled"
                return Cancelled(message="ended with the run")
            outcome.state = "failed"
            if isinstance(error, TransientFailure) and outcome.attempts <= len(RETRY_DELAYS):
                raise
            return Failed(message=f"{error} (the whole output: {log.relative_to(ROOT)})")
        finally:
            outcome.seconds += time.monotonic() - started
    outcome.error = ""
    if not needed or any(SKIPPED in line for line in lines):
        outcome.state = "cached"
        return Completed(name="Cached", message="DVC: nothing this stage depends on has changed")
    outcome.state = "done"
    return Completed(message=f"{stage} took {outcome.seconds:.1f} s")


def _name() -> str:
    """The run's name on the page: what was asked for."""
    asked = runtime.flow_run.parameters
    changes = [shortly(*change.partition("=")[::2]) for change in asked.get("overrides") or []]
    targets = asked.get("targets") or []
    recipe, after = asked.get("recipe", AS_IT_IS), asked.get("from_stage", BEGINNING)
    words = [recipe if recipe != AS_IT_IS else "", *changes, *targets, f"from {after}" if after != BEGINNING else ""]
    return ", ".join(filter(None, words)) or "the whole chain"


@flow(name="k2", flow_run_name=_name, log_prints=True, validate_parameters=True)
def pipeline(
    recipe: Recipe = AS_IT_IS,
    overrides: list[Change] = [],  # noqa: B006 (the form shows the default; nothing changes it)
    targets: list[Stage] = [],  # noqa: B006
    from_stage: From = BEGINNING,
    force: bool = False,
) -> State:
    """Kimi K2's recipe as `dvc.yaml` describes it. DVC decides which stages must run.

    Args:
        recipe: Make this the workspace's recipe (params.yaml) first.
        overrides: Changes of the recipe, written to params.yaml, as `key=value`, e.g. `rl.tau=0.2`.
        targets: Only these stages and what they need. Empty: the whole chain.
        from_stage: Only this stage and what follows it; what comes before it is taken as it is.
        force: Run unchanged stages too.
    """
    global RUN
    apply_settings()
    for name in ("prefect.flow_runs", "prefect.task_runs", "prefect.engine"):
        logging.getLogger(name).addFilter(_is_unreported)
    holder = {"flow run": str(runtime.flow_run.name), "id": str(runtime.flow_run.id), "since": time.strftime("%F %T")}
    # From the page a run waits for its turn; at a terminal a person would rather know at once.
    deployed = runtime.deployment.id  # asked of the server, which may be gone at the end
    waits = get_run_logger().info if deployed else None
    obeyed = threading.Event()
    try:
        with hold(ROOT, holder, waits):
            try:
                Choice(recipe if recipe != AS_IT_IS else None, tuple(overrides)).apply(ROOT)
                RUN = Run(load_section(Limits, ROOT / "params.yaml", "limits"))
                graph = read_graph(ROOT, tuple(targets), from_stage if from_stage != BEGINNING else "")
            except (SystemExit, ValueError) as error:
                return Failed(message=str(error))
            if graph.lacking:
                return Failed(message=graph.lacking)
            trees = RUN.trees
            with obey(runtime.flow_run.id, lambda: trees.stopping, obeyed):
                return _run(graph, force, RUN)
    except (KeyboardInterrupt, TerminationSignal):
        if not server_answers():
            end_without_server()
        if deployed and not obeyed.is_set():  # its worker tells the server
            raise
        return Cancelled(message="cancelled at the terminal or on the page")


def _run(graph: Graph, force: bool, run: Run) -> State:
    """Run the stages of `graph` side by side as far as they allow, and say what became of them."""
    started, before, kept = time.monotonic(), Before.read(ROOT), Kept.read(ROOT)
    run.outcomes = {stage: Outcome() for stage in (*graph.always, *graph.stages)}
    _announce()
    status, error = "KILLED", "cancelled"
    try:
        threads: ThreadPoolTaskRunner[Any] = ThreadPoolTaskRunner(max_workers=parallel_stages())
        with threads as runner:
            try:
                _submit(graph, force, run, runner)
            except BaseException:
                run.trees.stop()
                # Before the runner waits for a task that is to be tried again: Prefect waits less long.
                kept.bring_back(graph, run.outcomes)
                raise
        unfinished = {stage: outcome for stage, outcome in run.outcomes.items() if not outcome.ended_well}
        if not unfinished:
            status, error = "FINISHED", ""
            return Completed(message=f"up to date: {named(len(graph.stages))}")
        # A task that Prefect itself could not run has no fault of its own to tell.
        failed = [stage for stage, outcome in unfinished.items() if outcome.state == "failed"] or list(unfinished)
        status, error = "FAILED", f"{failed[0]}: {run.outcomes[failed[0]].error}"
        also = f"; also failed: {', '.join(failed[1:])}" if failed[1:] else ""
        return Failed(message=f"{error} (the whole output: logs/{failed[0]}.log{also})")
    except SystemExit as fault:  # DVC cannot read the project any more
        status, error = "FAILED", str(fault)
        return Failed(message=error)
    finally:
        run.trees.stop()
        kept.bring_back(graph, run.outcomes)
        tell(ROOT, type="outcome", status=status, error=error, seconds=time.monotonic() - started)
        if server_answers():
            summary(ROOT, graph, run.outcomes, before)


def _submit(graph: Graph, force: bool, run: Run, runner: ThreadPoolTaskRunner[Any]) -> None:
    """Hand every stage to Prefect, those that always run first: what they find tells which others have changed."""
    futures: dict[str, PrefectFuture[Any]] = {}
    for stage, address in graph.always.items():
        arguments = {"stage": stage, "needed": True, "force": False, "address": address}
        futures[stage] = runner.submit(run_stage, arguments)
    for future in futures.values():
        future.wait()
    if any(not future.state.is_completed() for future in futures.values()):
        return
    changed = read_graph(ROOT, graph.targets, graph.from_stage) if graph.always else graph
    needed = set(changed.stages) if force else changed.may_run()
    print(f"{named(len(graph.stages))}, {len(needed)} to look at, {parallel_stages()} at a time")
    for stage in graph.stages:
        arguments = {"stage": stage, "needed": stage in needed, "force": force}
        upstream = [futures[name] for name in graph.upstream[stage]]
        futures[stage] = runner.submit(run_stage, arguments, wait_for=upstream)
    for future in futures.values():
        future.wait()


def named(count: int) -> str:
    """A number of stages in words."""
    return f"{count} stage{'s' * (count != 1)}"


def parallel_stages() -> int:
    """How many stages may run at once: as many as have the recipe's threads to themselves."""
    threads = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")).get("compute", {}).get("threads", 1)
    return max(1, (os.cpu_count() or 1) // max(1, int(threads)))


def _announce() -> None:
    """Start the recorder for this run even if every stage is cached, and give it Prefect's ids."""
    os.environ[INVOCATION] = str(os.getpid())
    run_id = str(runtime.flow_run.id)
    tell(ROOT, type="tags", tags={"prefect.flow_run_id": run_id, "prefect.flow_run_url": flow_run_address(run_id)})
