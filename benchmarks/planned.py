"""`python -m benchmarks.planned` writes the tables of docs/parallel.md: K2 on the two clusters of `k2core/planning`."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.harness import ROOT
from benchmarks.pages import rewrite
from k2core.figures.tables import table
from k2core.model.counts import weights
from k2core.planning.cluster import H800, Cluster, load_cluster
from k2core.planning.jobs import Jobs, read_jobs
from k2core.planning.k2 import reported
from k2core.planning.mesh import Refused
from k2core.planning.plan import plan
from k2core.planning.search import best, pipelined, workable
from k2core.planning.staged import mesh_of
from k2core.planning.tables import exchanges, memory, number, operations, proposals, sampling, times

PAGE = ROOT / "docs" / "parallel.md"
RECIPE = ROOT / "recipes" / "k2.yaml"
PROCESSES = (128, 256, 512, 1024, 2048)
EXPERTS, CONTEXT = 16, 8
"""Ranks that share K2's experts, as in the report, and a row, where nothing else is said."""


def blocks() -> dict[str, str]:
    """The page's tables by the name of their marks."""
    jobs, cluster = read_jobs(RECIPE), load_cluster(H800.with_name("h100-2048.yaml"))
    k2 = reported(RECIPE)
    fast = best(workable(jobs, pipelined(jobs, cluster), cluster), 5)
    one = replace(k2, phases=(k2.phases[0], *k2.phases[-2:]))  # decay and anneal are as stable
    return {
        "operations": operations(replace(jobs, post=())),
        "today": _of_this_code(jobs, cluster, PROCESSES),
        "own": _of_this_code(jobs, cluster, PROCESSES[2:], pipeline=16, virtual=3, experts=32, context=16),
        "sampling": sampling(jobs, cluster),
        "k2": "\n\n".join((f"{k2.mesh.described()}:", memory(k2), exchanges(one), times(k2))),
        "proposals": proposals(fast),
    }


def _of_this_code(jobs: Jobs, cluster: Cluster, numbers: tuple[int, ...], **sizes: int) -> str:
    """The meshes of so many processes that `k2core/training` runs."""
    rows = []
    for processes in numbers:
        flat = {"processes": processes, "experts": EXPERTS, "context": CONTEXT, "pipeline": 1, "virtual": 1}
        mesh = mesh_of(jobs.parallel.model_copy(update=flat | sizes))
        found = [mesh.memory(jobs, job) for job in jobs.pretraining]
        states = sum(found[0].states.values())
        try:
            plan(jobs, mesh, cluster)
            verdict = "possible"
        except Refused as error:
            verdict = str(error)
        equal = 4 * sum(each.numbers * (3 if each.muon else 4) for each in weights(jobs.model)) / processes
        most = max(each.peak for each in found)
        rows.append([str(processes), *(number(size / 1e9) for size in (equal, states, most)), verdict])
    heads = ["processes", "states if cut equally, GB", "of the fullest rank, GB", "at most, GB", "verdict"]
    return table(heads, rows)


if __name__ == "__main__":
    for name, content in blocks().items():
        rewrite(PAGE, f"plan-{name}", content)
