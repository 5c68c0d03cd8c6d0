"""What every stage is: a function from parameters and inputs to outputs, run from one command line.

A stage module holds a `Section` with its parameters, a function `run` and `main(run, SECTION)`. The signature of
`run` is its whole declaration; each parameter is filled by its annotation and name:

- a `Section` class: `params` is the stage's own section of `params.yaml`, any other name is the top-level section
  of that name (`model: ModelConfig` is section `model`);
- `Path`: a command-line option. `out` (a file or folder) and `plot` (a CSV file) are outputs: `run` gets a scratch
  path and the result appears by atomic rename. All others are inputs and must exist;
- `str`: a command-line option too; it may appear in the section name (``SECTION = "pretrain.{phase}"``);
- `Job`: resumable scratch space, progress, live metrics.

`run` returns the stage's figures, which go to the ``--metrics`` file: equal inputs must give equal figures, so
times and rates belong into `Job.log` (MLflow) instead.
"""

from __future__ import annotations

import atexit
import errno
import gc
import hashlib
import inspect
import json
import os
import signal
import sys
import threading
import time
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from k2core.machine import Processes
from k2core.machine.processes import LAUNCHER, launch, must_launch, rank
from k2core.recipe import RecipeError, Section, load_section, read_recipe
from k2core.storage import StorageError, dvc_md5, publish, write_json
from k2core.storage.atomic import remove
from k2core.tracking.address import INVOCATION

if typing.TYPE_CHECKING:
    from tqdm import tqdm

    from k2core.tracking.client import StageRun

Metrics = dict[str, float]
OUTPUTS = ("out", "plot")
CODE_SUFFIXES = (".py", ".c", ".h", ".yaml", ".jinja", ".md")
INERT_ROOMS = frozenset(("tracking", "lineage", "needs"))
"""They record, tell or check, and cannot change an output."""
DISK_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
WORK = Path("work")
RECIPE = Path("params.yaml")
TEMPORARY_FAILURE = 75
"""Exit status (sysexits' EX_TEMPFAIL) of a stage that lost a service: the flow tries it again."""


class StageError(RuntimeError):
    """A stage cannot go on; the message is one sentence that says what, where and what to do."""


class Job:
    """One execution of a stage: its scratch space, its progress and its live metrics.

    `scratch` survives a kill and is reused by the next attempt with the same parameters, inputs and code; it is
    removed once the outputs are published. All processes of a stage share it; only the first speaks and records.

    Attributes:
        recipe: the recipe file.
        fingerprint: what the work depends on (inputs, sections of the recipe, code), name → digest.
        answers: the workspace's replay cache of what LLMs answered, which stays.
        closing: what the stage says last, when its outputs are in place.
        first: whether this is the stage's only process, or the one with rank 0.
        stopping: SIGTERM came while the work was `graceful`.
    """

    def __init__(
        self, name: str, scratch: Path, tracker: StageRun | None, fingerprint: Mapping[str, str] | None = None,
        answers: Path | None = None, recipe: Path = RECIPE,
    ) -> None:  # fmt: skip
        self.name, self.scratch, self.recipe, self._tracker = name, scratch, recipe, tracker
        self.fingerprint = dict(fingerprint or {})
        self.answers = answers or scratch / "answers.sqlite"
        self.artifacts: list[Path] = []
        self.closing = ""
        self.first, self.stopping = rank() == 0, False

    def say(self, text: str) -> None:
        """Print a line at once: what is about to be done, with its size and expected time."""
        if self.first:
            print(f"[{self.name}] {text}", flush=True)

    @contextmanager
    def graceful(self) -> Iterator[None]:
        """Within, the first SIGTERM only sets `stopping`: the work ends where nothing is lost. A second one ends it."""

        def stop(signum: int, frame: Any) -> None:
            if self.stopping:
                _terminate(signum, frame)
            self.stopping = True

        before = signal.signal(signal.SIGTERM, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def log(self, metrics: Metrics, step: int = 0) -> None:
        """Send live figures to MLflow (bounded number of names, every few steps, not every step)."""
        if self._tracker:
            self._tracker.metrics(metrics, step)

    def artifact(self, path: Path) -> None:
        """Send a small output file (a picture, a page) to MLflow once it is published; weights belong to DVC."""
        self.artifacts.append(path)

    def progress(self, total: int, unit: str, done: int = 0, what: str = "") -> tqdm:
        """A bar with rate and time left; where the output is no terminal, a line every ten seconds."""
        from tqdm import tqdm

        terminal = sys.stderr.isatty()
        label = f"[{self.name}] {what}".rstrip()
        return tqdm(
            total=total,
            initial=done,
            unit=unit,
            desc=label,
            unit_scale=True,
            dynamic_ncols=terminal,
            mininterval=0.2 if terminal else 10.0,
            ncols=None if terminal else 110,
            file=sys.stderr if terminal else _LineStream(),
            leave=True,
            disable=not self.first,
        )


class _LineStream:
    """stderr for a bar that redraws itself, as lines (carriage returns are unreadable in logs)."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stderr.write(text.strip("\r\n") + "\n")

    def flush(self) -> None:
        sys.stderr.flush()


def main(run: Callable[..., Metrics], section: str, *, recorded: bool = True) -> None:
    """The command line of a stage: read, check, run, publish. Exit status 0, 1 (a fault to mend) or 75 (try again).

    Args:
        recorded: whether an execution is a run in MLflow.
    """
    import typer

    _collect_seldom()

    parameters, hints = inspect.signature(run).parameters, typing.get_type_hints(run)
    options = [name for name in parameters if hints[name] in (Path, str)]

    def command(recipe: Path, metrics: Path | None, **arguments: Any) -> None:
        ended_well = False
        try:
            _execute(run, section, hints, recipe, metrics, arguments, recorded)
            ended_well = True
        except (RecipeError, StorageError, StageError, FileNotFoundError) as error:
            print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr, flush=True)
            raise typer.Exit(1) from None
        except (ConnectionError, TimeoutError) as error:
            print(f"{Path(sys.argv[0]).stem}: {error}; worth another try", file=sys.stderr, flush=True)
            raise typer.Exit(TEMPORARY_FAILURE) from None
        except OSError as error:
            if error.errno not in DISK_FAULTS:
                raise
            where = f" {error.filename}" if error.filename else ""
            print(
                f"{Path(sys.argv[0]).stem}: cannot write{where}: {error.strerror}; make room or mend the disk and run "
                "again, finished work is kept", file=sys.stderr, flush=True,
            )  # fmt: skip
            raise typer.Exit(1) from None
        finally:
            if not ended_well:
                _say_what_comes_back([arguments[name] for name in OUTPUTS if name in arguments])

    def option(name: str, annotation: type, default: Any, text: str) -> inspect.Parameter:
        return inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=typer.Option(default, help=text)
        )

    signature = [
        option("recipe", Path, RECIPE, "the recipe file"),
        option("metrics", Path | None, None, "where the stage's figures go (JSON)"),
    ]
    signature += [option(n, hints[n], ..., "output" if n in OUTPUTS else "input") for n in options]
    command.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in signature}
    command.__doc__ = (sys.modules[run.__module__].__doc__ or "").strip().split("\n\n")[0]
    # Without rich, whose import is most of what `--help` would take.
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(command)
    app()


def sections_of(run: Callable[..., Metrics], section: str) -> dict[str, tuple[str, type[Section]]]:
    """Parameter name → (dotted section of the recipe, its class), read off the signature of `run`."""
    return {
        name: (section if name == "params" else name, hint)
        for name, hint in typing.get_type_hints(run).items()
        if isinstance(hint, type) and issubclass(hint, Section)
    }


def _execute(
    run: Callable[..., Metrics],
    section: str,
    hints: dict[str, Any],
    recipe: Path,
    metrics: Path | None,
    arguments: dict[str, Any],
    recorded: bool,
) -> None:
    words = {name: value for name, value in arguments.items() if hints[name] is str}
    # DVC tells a stage its name in the graph; run by hand, it follows from the command line.
    name = os.environ.get("DVC_STAGE", "").rpartition(":")[2] or "@".join([section.split(".")[0], *words.values()])
    declared = {name: (key.format(**words), cls) for name, (key, cls) in sections_of(run, section).items()}
    paths = {parameter: value for parameter, value in arguments.items() if hints[parameter] is Path}
    inputs = {parameter: path for parameter, path in paths.items() if parameter not in OUTPUTS}
    outputs = {parameter: path for parameter, path in paths.items() if parameter in OUTPUTS}
    with _recorded_fault(name):
        sections = {name: load_section(cls, recipe, *key.split(".")) for name, (key, cls) in declared.items()}
        signal.signal(signal.SIGTERM, _terminate)
        _die_with_dvc()
        processes = next((value for value in sections.values() if isinstance(value, Processes)), None)
        if processes and must_launch(processes):
            status = launch(processes)
            if status:
                raise SystemExit(status)
            return
        digests = {str(path): dvc_md5(path) for path in inputs.values()}
    settings = {declared[parameter][0]: value.model_dump(mode="json") for parameter, value in sections.items()}
    tracked = {declared[name][0]: settings[declared[name][0]] for name, value in sections.items() if value.TRACKED}
    code = code_digest(Path(__file__).parents[1])
    scratch = WORK / name / _key(tracked, digests, words, code)
    scratch.mkdir(parents=True, exist_ok=True)
    fingerprint = {parameter: digests[str(path)] for parameter, path in inputs.items()}
    fingerprint |= {key: hashlib.md5(json.dumps(value).encode()).hexdigest() for key, value in tracked.items()}

    from k2core.tracking.client import StageRun

    started = time.monotonic()
    with ExitStack() as stack:
        if rank() or not recorded:
            tracker = StageRun(None)
        if rank():
            elsewhere = Path(stack.enter_context(TemporaryDirectory()))
            scratched = {parameter: elsewhere / parameter for parameter in outputs}
        elif recorded:
            tracker = stack.enter_context(
                StageRun.open(name, settings, digests, [str(path) for path in outputs.values()])
            )
        job = Job(name, scratch, tracker, {**fingerprint, "code": code}, WORK / "answers.sqlite", recipe)
        jobs = {parameter: job for parameter, hint in hints.items() if hint is Job}
        with ExitStack() as published:
            if job.first:
                scratched = {parameter: published.enter_context(publish(path)) for parameter, path in outputs.items()}
            with nullcontext() if recorded else _recorded_fault(name):
                figures = run(**sections, **words, **inputs, **scratched, **jobs)
            if not figures:
                raise StageError("the stage reported no figures; a stage that did nothing must not pass as done")
        if not job.first:
            return
        if metrics:
            write_json(metrics, figures)
        for path in job.artifacts:
            parameter = next(name for name, place in scratched.items() if path.is_relative_to(place))
            tracker.artifact(outputs[parameter] / path.relative_to(scratched[parameter]))
        tracker.metrics({**figures, "stage/seconds": time.monotonic() - started}, 0)
    remove(scratch)
    job.say(
        f"done in {time.monotonic() - started:.1f} s: "
        + ", ".join(f"{key} {value:.5g}" for key, value in list(figures.items())[:8])
    )
    if job.closing:
        job.say(job.closing)


def _say_what_comes_back(outputs: list[Path]) -> None:
    """Tell how to get back the outputs that DVC removed before this stage, which has failed, and that its lock has.

    The flow brings them back itself.
    """
    lock = Path("dvc.lock")
    if "DVC_STAGE" not in os.environ or INVOCATION in os.environ or rank() or not lock.exists():
        return
    stage = read_recipe(lock).get("stages", {}).get(os.environ["DVC_STAGE"], {})
    locked = {entry["path"] for entry in stage.get("outs", [])}
    gone = [str(path) for path in outputs if str(path) in locked and not path.exists()]
    if gone:
        what = " ".join(gone)
        print(f"{what}: DVC removed it before this stage; `dvc checkout {what}` brings the previous one back",
              file=sys.stderr, flush=True)  # fmt: skip


@contextmanager
def _recorded_fault(name: str) -> Iterator[None]:
    """Within, the stage has no run yet: a fault of the recipe or of an input gets one, so that it is seen in MLflow."""
    try:
        yield
    except (RecipeError, StorageError, FileNotFoundError):
        from k2core.tracking.client import StageRun

        with nullcontext() if rank() else StageRun.open(name, {}, {}, []):
            raise


def _collect_seldom() -> None:
    """Look for cyclic garbage rarely, and not at the end: torch's import makes a million objects, none of them garbage.

    Saves a training stage about 1.5 s of its start and end.
    """
    gc.set_threshold(50_000, 10, 10)
    atexit.register(gc.freeze)


def code_digest(root: Path) -> str:
    """Digest of all code below `root` that an output may depend on: Python, C, prompts, templates, taxonomies.

    The kinds of files are those that `stages.closure` takes for a stage's dependencies.
    """
    code = hashlib.md5()
    for file in sorted(path for room in ("k2core", "stages") for path in (root / room).rglob("*")):
        if file.suffix in CODE_SUFFIXES and not INERT_ROOMS & set(file.relative_to(root).parts):
            code.update(file.read_bytes())
    return code.hexdigest()


def _key(settings: dict[str, Any], digests: dict[str, str], words: dict[str, str], code: str) -> str:
    """Name of the scratch folder: stale state of other parameters, inputs or code is never picked up."""
    content = json.dumps([settings, digests, words, code], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


SHELLS = ("sh", "dash", "bash", "zsh", "fish", "ksh")


def _die_with_dvc() -> None:
    """Send ourselves SIGTERM when the `dvc` or the flow that started us is gone: neither may leave an orphan stage.

    DVC runs commands through `$SHELL`; bash becomes its command, dash stays in between, so the first ancestor that
    is no shell is watched (the kernel's parent-death signal would watch the shell). One of a stage's many processes
    watches the process that launched them instead.
    """
    if "DVC_STAGE" not in os.environ and LAUNCHER not in os.environ:
        return
    import psutil

    ancestors = psutil.Process().parents()
    named = {int(os.environ[name]) for name in (LAUNCHER, INVOCATION) if os.environ.get(name, "").isdigit()}
    watched = [process for process in ancestors if process.pid in named]  # none, if it is on another machine
    if LAUNCHER not in os.environ:
        watched += [process for process in ancestors if process.name() not in SHELLS][:1]
    if not watched:
        return

    def watch() -> None:
        try:
            while all(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in watched):
                time.sleep(0.5)
        except psutil.NoSuchProcess:
            pass  # gone between the two questions
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="watch-dvc", daemon=True).start()


def _terminate(signum: int, frame: Any) -> None:
    """SIGTERM ends a stage like an exception: files are closed, the run is marked, scratch stays."""
    raise SystemExit(128 + signum)
