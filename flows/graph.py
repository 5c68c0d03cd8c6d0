"""The stage graph and what has changed, through DVC's own API."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from flows.choice import ACTIVE, check_recipe

if TYPE_CHECKING:
    from dvc.stage import PipelineStage

T = TypeVar("T")
LOCK_PATIENCE_SECONDS = 60.0
NO_GIT = "this folder is not a git repository; `dvc config --local core.no_scm true` (or `make setup`) lets DVC run so"


@dataclass(frozen=True)
class Graph:
    """Stages in an order in which they can run, with their direct upstream stages."""

    upstream: dict[str, tuple[str, ...]]
    changed: frozenset[str]
    """Stages that DVC says have changed; what is downstream of them may turn out to have changed too."""
    always: dict[str, str]
    """Name → address of the stages that run each time (``always_changed``): they look at what is outside. They are
    not among `stages`, and their outputs are never out of date."""
    outputs: dict[str, tuple[str, ...]]
    """Stage → the paths that it makes."""
    targets: tuple[str, ...]
    from_stage: str
    """What the graph is restricted to."""
    lacking: str
    """A sentence, if a stage needs a missing file that none of these stages makes."""

    @property
    def stages(self) -> list[str]:
        return list(self.upstream)

    def may_run(self) -> set[str]:
        """The changed stages and everything downstream of them: only these need a `dvc repro`."""
        return self.downstream(self.changed)

    def downstream(self, stages: Iterable[str]) -> set[str]:
        """`stages` and every stage that needs one of them, directly or not."""
        reached = set(stages)
        for stage, before in self.upstream.items():
            if reached & set(before):
                reached.add(stage)
        return reached


def stage_names(root: Path) -> list[str]:
    """The stages of `root/dvc.yaml` in the order of the file, without DVC (whose import takes a second)."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    stages: dict[str, Any] = yaml.load((root / "dvc.yaml").read_text(), Loader=loader)["stages"]
    return [
        f"{name}@{item}" if item else name for name, stage in stages.items() for item in stage.get("foreach", [None])
    ]


def read_graph(root: Path, targets: tuple[str, ...] = (), from_stage: str = "", look: bool = False) -> Graph:
    """The graph of `root/dvc.yaml`, restricted to `targets` with what they need, and to what follows `from_stage`.

    Args:
        look: let the stages that always run look too, so that `changed` tells what they find. Nothing is written.

    Raises:
        SystemExit: DVC cannot read the project, or a stage is unknown or has failed; one sentence says why.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import SCMError
    from networkx import ancestors, topological_sort

    try:
        repo = Repo(str(root))
        graph = repo.index.graph
        nodes = {stage.addressing: stage for stage in graph}
        named = [*targets, *filter(None, [from_stage])]
        unknown = [name for name in named if name not in nodes]
        if unknown:
            raise SystemExit(f"no stage {', '.join(unknown)} in dvc.yaml; there are: {', '.join(sorted(nodes))}")
        # DVC's edges point from a stage to what it needs.
        needs = graph.reverse(copy=True)
        wanted = set(nodes) if not targets else set(targets)
        for target in targets:
            wanted |= {stage.addressing for stage in ancestors(needs, nodes[target])}
        if from_stage:
            wanted &= {from_stage, *(stage.addressing for stage in ancestors(graph, nodes[from_stage]))}
        always = {
            stage.name: stage.addressing for stage in graph if stage.always_changed and stage.addressing in wanted
        }
        wanted -= set(always.values())
        if not wanted:
            raise SystemExit(f"{', '.join(targets)} needs nothing from {from_stage} on: no stage is left to run")
        order = [stage.addressing for stage in topological_sort(needs) if stage.addressing in wanted]
        known = {*wanted, *always.values()}
        lacking = [
            f"{name} needs {out}, which stage {above.addressing} makes and is not there; start from there or earlier"
            for name in order for above in graph.successors(nodes[name]) if above.addressing not in known
            for out in above.outs if not (root / str(out)).exists()
        ]  # fmt: skip
        looks = [_Look(nodes[address], root) for address in always.values() if look]
        status = patiently(repo.status)  # of all: with targets DVC takes four times as long
    except SCMError:
        raise SystemExit(NO_GIT) from None
    except DvcException as error:
        try:
            check_recipe(root, root / ACTIVE)
        except ValueError as fault:  # such as a section that a command in dvc.yaml names
            raise SystemExit(str(fault)) from None
        said = " ".join(str(error).split())
        raise SystemExit(f"DVC cannot read the project: {said}; `dvc status` says more") from None
    changed = {name.removeprefix("dvc.yaml:") for name in status}
    for found in looks:
        if found.differs():
            changed |= {stage.addressing for stage in graph.predecessors(found.stage)}
    return Graph(
        upstream={
            name: tuple(
                sorted(stage.addressing for stage in graph.successors(nodes[name]) if stage.addressing in wanted)
            )
            for name in order
        },
        changed=frozenset(changed & wanted),
        always=always,
        outputs={name: tuple(str(out) for out in nodes[name].outs) for name in order},
        targets=targets,
        from_stage=from_stage,
        lacking="".join(lacking[:1]),
    )


def patiently(ask: Callable[[], T], seconds: float = LOCK_PATIENCE_SECONDS) -> T:
    """What `ask` returns; asked again for a while if another `dvc` holds a lock: one that is refused ends soon.

    Raises:
        LockError: it did not end.
    """
    from dvc.lock import LockError
    from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

    again = Retrying(
        retry=retry_if_exception_type(LockError), stop=stop_after_delay(seconds), wait=wait_fixed(0.5), reraise=True
    )
    return again(ask)


class _Look:
    """What a stage that always runs would write now, found out beside everything else: DVC takes seconds."""

    def __init__(self, stage: PipelineStage, root: Path) -> None:
        self.stage, self.before = stage, root / str(stage.outs[0])
        self.now = root / "work" / f"{stage.name}-now"
        words = shlex.split(stage.cmd.replace(str(stage.outs[0]), str(self.now)))
        self.process = subprocess.Popen(words, cwd=root, stdout=subprocess.PIPE, text=True)

    def differs(self) -> bool:
        """Whether it differs from what the stage has written.

        Raises:
            SystemExit: the stage has failed; it has said why.
        """
        said = self.process.communicate()[0]
        if self.process.returncode:
            print(said, end="")
            raise SystemExit(f"nothing was started: the first stage, {self.stage.name}, says why above")
        return not self.before.exists() or self.before.read_bytes() != self.now.read_bytes()
