"""The stage graph and what has changed, through DVC's own API."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Graph:
    """Stages in an order in which they can run, with their direct upstream stages."""

    upstream: dict[str, tuple[str, ...]]
    changed: frozenset[str]
    """Stages that DVC says have changed; what lies downstream of them may turn out to have changed too."""

    @property
    def stages(self) -> list[str]:
        return list(self.upstream)

    def may_run(self) -> set[str]:
        """The changed stages and everything downstream of them: only these need a `dvc repro`."""
        touched = set(self.changed)
        for stage, before in self.upstream.items():
            if touched & set(before):
                touched.add(stage)
        return touched


def read_graph(root: Path, targets: tuple[str, ...] = ()) -> Graph:
    """The graph of `root/dvc.yaml`, restricted to `targets` and what they need.

    Raises:
        SystemExit: DVC cannot read the project, or a target is unknown; one sentence says why.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from networkx import ancestors, topological_sort

    try:
        repo = Repo(str(root))
        graph = repo.index.graph
        nodes = {stage.addressing: stage for stage in graph}
        unknown = [target for target in targets if target not in nodes]
        if unknown:
            raise SystemExit(f"no stage {', '.join(unknown)} in dvc.yaml; there are: {', '.join(sorted(nodes))}")
        # DVC's edges point from a stage to what it needs.
        wanted = set(nodes) if not targets else set(targets)
        for target in targets:
            wanted |= {stage.addressing for stage in ancestors(graph.reverse(copy=False), nodes[target])}
        order = [stage.addressing for stage in topological_sort(graph.reverse(copy=True))]
        status = repo.status()
    except DvcException as error:
        raise SystemExit(f"DVC cannot read the project: {error}; `dvc status` says more") from None
    changed = {name.removeprefix("dvc.yaml:") for name in status}
    return Graph(
        upstream={
            name: tuple(sorted(stage.addressing for stage in graph.successors(nodes[name])))
            for name in order
            if name in wanted
        },
        changed=frozenset(changed & wanted),
    )
