"""How many processes run a stage. A stage whose parameters hold a `Processes` starts itself again under torchrun.

Every process runs the whole stage (SPMD); the one with rank 0 speaks, records and publishes. Started by hand or by a
scheduler under torchrun (`RANK`, `WORLD_SIZE` set), a stage joins the others instead of starting any.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import Field

from k2core.recipe.section import RecipeError, Section

Given = TypeVar("Given")
Made = TypeVar("Made")
LAUNCHER = "K2_LAUNCHER"
"""Environment variable with the process id of the stage that started this one: when it is gone, this one ends."""


_OF_EXCHANGES = re.compile(r"gloo|NCCL|TCPStore|[Cc]onnection (closed|reset) by peer")
"""What the errors of torch's exchanges say; they are `RuntimeError`."""


class Processes(Section):
    """How many, and what starts them."""

    processes: int = Field(ge=1, description="processes in all, one per GPU; 1 starts none")
    launcher: str = Field(
        description="command that starts them, before `-m stages.NAME …`; {processes} and $VARIABLES are filled in"
    )


def rank() -> int:
    """This process's number among those of the stage."""
    return int(os.environ.get("RANK", "0"))


def local_world() -> int:
    """Processes of the stage on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def gathered(own: Made) -> list[Made]:
    """What each process of a training has given, in the order of their ranks; all of them must call this."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return [own]
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, own)
    return found


def divided(items: Sequence[Given], work: Callable[[Sequence[Given]], Sequence[Made]]) -> list[Made]:
    """The result of `work` for each of `items`, in their order, on every process; each works on a share of its own.

    All processes of a training must call this with the same items.
    """
    import torch.distributed as dist

    first, step = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    parts = [iter(part) for part in gathered(list(work(items[first::step])))]
    return [next(parts[number % step]) for number in range(len(items))]


def lost_peer(error: BaseException) -> str:
    """That another process of the training has died, if `error` is what this one saw of it; else ""."""
    if "WORLD_SIZE" not in os.environ or not isinstance(error, RuntimeError) or not _OF_EXCHANGES.search(str(error)):
        return ""
    return (
        "another process of this training has died, and this one ends with it (its own message says why); "
        "the same command goes on from the newest checkpoint"
    )


def must_launch(wanted: Processes) -> bool:
    """Whether this process is to start the others rather than be one of them.

    Raises:
        RecipeError: torchrun started another number of processes than the recipe says.
    """
    if "WORLD_SIZE" not in os.environ:
        return wanted.processes > 1
    started = int(os.environ["WORLD_SIZE"])
    if started != wanted.processes:
        raise RecipeError(f"parallel.processes is {wanted.processes}, but torchrun started {started}; make them equal")
    return False


def launch(wanted: Processes) -> int:
    """Run this very command line as `wanted.processes` processes; returns the exit status. SIGTERM is passed on.

    Raises:
        RecipeError: the launcher is not there.
    """
    words = shlex.split(os.path.expandvars(wanted.launcher.format(processes=wanted.processes)))
    module = sys.modules["__main__"].__spec__
    command = [*words, "-m", module.name if module else sys.argv[0], *sys.argv[1:]]
    try:
        child = subprocess.Popen(command, env={**os.environ, LAUNCHER: str(os.getpid())})
    except FileNotFoundError:
        raise RecipeError(f"parallel.launcher: no program {words[0]} here; install it or change the recipe") from None

    stopped = False

    def pass_on(signum: int, frame: Any) -> None:
        nonlocal stopped
        stopped = True
        child.send_signal(signum)

    signal.signal(signal.SIGTERM, pass_on)
    status = child.wait()
    return 128 + signal.SIGTERM if stopped else status
