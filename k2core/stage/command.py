"""The command line of a stage: its options are read off `run`, and its faults end in a sentence and an exit status."""

from __future__ import annotations

import inspect
import os
import signal
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from k2core.machine.processes import lost_peer, rank
from k2core.machine.proxies import spare_loopback
from k2core.recipe import RecipeError, mask
from k2core.recipe.reading import read_yaml
from k2core.stage.contract import OUTPUTS, RECIPE, Metrics, StageError, description
from k2core.stage.execute import execute
from k2core.stage.process import collect_seldom
from k2core.storage import StorageError, disk
from k2core.storage.foreign import printable
from k2core.tracking.address import INVOCATION

TEMPORARY_FAILURE = 75
"""Exit status (sysexits' EX_TEMPFAIL) of a stage that lost a service: the flow tries it again."""
CANCELLED = 128 + signal.SIGINT


def main(run: Callable[..., Metrics], section: str, *, recorded: bool = True) -> None:
    """The command line of a stage: read, check, run, publish.

    Exit status 0, 1 (a fault to mend), 75 (try again) or 130 (Ctrl-C).

    Args:
        recorded: whether an execution is a run in MLflow.
    """
    import typer

    collect_seldom()
    spare_loopback()

    parameters, hints = inspect.signature(run).parameters, typing.get_type_hints(run)
    options = [name for name in parameters if hints[name] in (Path, str)]

    def command(recipe: Path, metrics: Path | None, **arguments: Any) -> None:
        ended_well = False
        try:
            execute(run, section, hints, recipe, metrics, arguments, recorded)
            ended_well = True
        except (RecipeError, StorageError, StageError, FileNotFoundError) as error:
            _say(error)
            raise typer.Exit(1) from None
        except (ConnectionError, TimeoutError) as error:
            _say(f"{error}; worth another try")
            raise typer.Exit(TEMPORARY_FAILURE) from None
        except KeyboardInterrupt:
            _say("cancelled; what is finished is kept, and the same command goes on from there")
            raise typer.Exit(CANCELLED) from None
        except Exception as error:
            if not (said := lost_peer(error) or disk.sentence(error)):
                raise
            _say(said)
            raise typer.Exit(1) from None
        finally:
            if not ended_well:
                _say_what_comes_back([arguments[name] for name in OUTPUTS if name in arguments])

    def option(name: str, annotation: object, default: Any, text: str) -> inspect.Parameter:
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
    command.__doc__ = description(run)
    # Without rich, whose import is most of what `--help` would take.
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(command)
    app()


def _say(fault: object) -> None:
    print(printable(mask(f"{Path(sys.argv[0]).stem}: {fault}")), file=sys.stderr, flush=True)


def _say_what_comes_back(outputs: list[Path]) -> None:
    """Say how to get back the outputs in the lock that DVC removed before this stage, which has failed.

    The flow brings them back itself.
    """
    lock = Path("dvc.lock")
    if "DVC_STAGE" not in os.environ or INVOCATION in os.environ or rank() or not lock.exists():
        return
    stage = read_yaml(lock).get("stages", {}).get(os.environ["DVC_STAGE"], {})
    locked = {entry["path"] for entry in stage.get("outs", [])}
    gone = [str(path) for path in outputs if str(path) in locked and not path.exists()]
    if gone:
        what = " ".join(gone)
        print(f"{what}: DVC removed it before this stage; `dvc checkout {what}` brings the previous one back",
              file=sys.stderr, flush=True)  # fmt: skip
