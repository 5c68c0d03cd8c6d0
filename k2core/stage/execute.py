"""One execution of a stage: sections and inputs are read, `run` is called, its outputs are published and recorded."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from k2core.machine import Processes
from k2core.machine.processes import launch, must_launch, rank
from k2core.recipe import RecipeError, read_recipe, section_of
from k2core.stage.contract import OUTPUTS, Job, Metrics, StageError, description, sections_of
from k2core.stage.digest import code_digest
from k2core.stage.process import die_with_dvc, terminate
from k2core.stage.times import note
from k2core.storage import StorageError, dvc_md5, publish, write_json
from k2core.storage.atomic import remove

WORK = Path("work")


def execute(
    run: Callable[..., Metrics],
    section: str,
    hints: dict[str, Any],
    recipe: Path,
    metrics: Path | None,
    arguments: dict[str, Any],
    recorded: bool,
) -> None:
    """Run a stage once, from its recipe and the arguments of its command line to published outputs.

    Args:
        section: the stage's own section of the recipe, maybe with `{placeholders}`.
        hints: the annotations of `run`, name → type.
        metrics: where its figures go.
        arguments: of the command line, name → value.
        recorded: whether the execution is a run in MLflow.
    """
    words = {name: value for name, value in arguments.items() if hints[name] is str}
    # DVC tells a stage its name in the graph; run by hand, it follows from the command line.
    name = os.environ.get("DVC_STAGE", "").rpartition(":")[2] or "@".join([section.split(".")[0], *words.values()])
    declared = {name: (key.format(**words), cls) for name, (key, cls) in sections_of(run, section).items()}
    paths = {parameter: value for parameter, value in arguments.items() if hints[parameter] is Path}
    inputs = {parameter: path for parameter, path in paths.items() if parameter not in OUTPUTS}
    outputs = {parameter: path for parameter, path in paths.items() if parameter in OUTPUTS}
    with _recorded_fault(name, run):
        content = read_recipe(recipe)
        sections = {name: section_of(cls, content, recipe, *key.split(".")) for name, (key, cls) in declared.items()}
        signal.signal(signal.SIGTERM, terminate)
        die_with_dvc()
        processes = next((value for value in sections.values() if isinstance(value, Processes)), None)
        if processes and must_launch(processes):
            status = launch(processes)
            if status:
                raise SystemExit(status)
            return
        digests = {str(path): dvc_md5(path) for path in inputs.values()}
    settings = {declared[parameter][0]: value.model_dump(mode="json") for parameter, value in sections.items()}
    tracked = {declared[name][0]: settings[declared[name][0]] for name, value in sections.items() if value.TRACKED}
    code = code_digest(Path(__file__).parents[2])
    scratch = WORK / name / _key(tracked, digests, words, code)
    fingerprint = {parameter: digests[str(path)] for parameter, path in inputs.items()}
    fingerprint |= {key: hashlib.md5(json.dumps(value).encode()).hexdigest() for key, value in tracked.items()}

    from k2core.tracking.address import invocation_pid
    from k2core.tracking.client import StageRun

    started = time.monotonic()
    with ExitStack() as stack:
        if not rank():
            stack.enter_context(_alone(scratch.with_suffix(".lock"), name))
        scratch.mkdir(parents=True, exist_ok=True)
        if rank() or not recorded:
            tracker = StageRun(None)
        if rank():
            elsewhere = Path(stack.enter_context(TemporaryDirectory()))
            scratched = {parameter: elsewhere / parameter for parameter in outputs}
        elif recorded:
            tracker = stack.enter_context(StageRun.open(name, settings, digests, description(run)))
        job = Job(name, scratch, tracker, {**fingerprint, "code": code}, WORK / "answers.sqlite", recipe)
        jobs = {parameter: job for parameter, hint in hints.items() if hint is Job}
        with ExitStack() as published:
            if job.first:
                scratched = {parameter: published.enter_context(publish(path)) for parameter, path in outputs.items()}
            with nullcontext() if recorded else _recorded_fault(name, run):
                figures = run(**sections, **words, **inputs, **scratched, **jobs)
            if not figures:
                raise StageError("the stage reported no figures; a stage that did nothing must not pass as done")
        if not job.first:
            return
        if metrics:
            write_json(metrics, figures)
        tracker.outputs([*outputs.values(), *([metrics] if metrics else [])])
        tracker.metrics({**figures, "stage/seconds": time.monotonic() - started}, 0)
        remove(scratch)
    note(WORK, name, time.monotonic() - started, str(invocation_pid()))
    job.say(
        f"done in {time.monotonic() - started:.1f} s: "
        + ", ".join(f"{key} {value:.5g}" for key, value in list(figures.items())[:8])
    )
    if job.closing:
        job.say(job.closing)


@contextmanager
def _alone(lock: Path, name: str) -> Iterator[None]:
    """Within the block no other execution of a stage works on the same: it waits for the one that does."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"[{name}] waiting: another run of {name} does the same here", flush=True)
                fcntl.flock(file, fcntl.LOCK_EX)
            if not lock.exists() or not os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                continue  # the run that was waited for has removed it
            try:
                yield
            finally:
                lock.unlink()
            return


@contextmanager
def _recorded_fault(name: str, run: Callable[..., Metrics]) -> Iterator[None]:
    """Within the block, the stage has no run yet: a fault of the recipe or an input gets one, to be seen in MLflow."""
    try:
        yield
    except (RecipeError, StorageError, FileNotFoundError):
        from k2core.tracking.client import StageRun

        with nullcontext() if rank() else StageRun.open(name, {}, {}, description(run)):
            raise


def _key(settings: dict[str, Any], digests: dict[str, str], words: dict[str, str], code: str) -> str:
    """Name of the scratch folder: stale state of other parameters, inputs or code is never picked up."""
    content = json.dumps([settings, digests, words, code], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
