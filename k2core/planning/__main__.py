"""The command: `python -m k2core.planning RECIPE --cluster FILE [--mesh ...] [--propose]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import yaml

from k2core.planning.cluster import Cluster, load_cluster
from k2core.planning.jobs import Jobs, read_jobs
from k2core.planning.mesh import Mesh, Refused
from k2core.planning.pipelined import PipelinedMesh
from k2core.planning.plan import plan
from k2core.planning.search import best, nearest, pipelined, todays, workable
from k2core.planning.staged import mesh_of
from k2core.planning.tables import proposals, whole
from k2core.recipe import RecipeError, validate

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
BEST = 3
"""Meshes of each family that are proposed."""


@app.command()
def main(
    recipe: Path = typer.Argument(help="a recipe, e.g. recipes/k2.yaml"),
    cluster: Path = typer.Option(help="the machine, e.g. k2core/planning/h100-2048.yaml"),
    mesh: str = typer.Option(
        "",
        metavar="KEY=N,...",
        help="a mesh as K2's: pipeline, virtual, experts (1 each if not given), "
        "micro_batch_tokens (8192), gpus (the cluster's), offload (alone)",
    ),
    propose: bool = typer.Option(False, "--propose", help="list the fastest meshes that hold the model"),
) -> None:
    """Say what pre-training of RECIPE needs on a cluster: memory, operations, exchanges, days and GPU-hours.

    Without --mesh the mesh is the recipe's section `parallel`, as this project's code runs it. With it, a pipeline with
    the states that K2 kept.
    """
    try:
        jobs, machine = read_jobs(recipe), load_cluster(cluster)
        print(proposed(jobs, machine) if propose else planned(jobs, machine, mesh))
    except (RecipeError, Refused) as error:
        print("\n".join(f"planning: {line}" for line in str(error).splitlines()), file=sys.stderr)
        raise typer.Exit(1) from None


def planned(jobs: Jobs, cluster: Cluster, mesh: str) -> str:
    """The tables of one mesh.

    Raises:
        Refused: it cannot be; with the nearest that can.
    """
    chosen = pipelined_mesh(mesh, cluster) if mesh else mesh_of(jobs.parallel)
    try:
        return whole(plan(jobs, chosen, cluster))
    except Refused as error:
        other = nearest(jobs, chosen, cluster)
        none = "none that is near to it can on this cluster; --propose lists those that can"
        raise Refused(f"{error}; {f'the nearest that can: {other.mesh.described()}' if other else none}") from None


def pipelined_mesh(words: str, cluster: Cluster) -> PipelinedMesh:
    """`pipeline=16,experts=16` as a mesh, on all of the cluster's GPUs unless it says otherwise.

    Raises:
        RecipeError: a key or value does not fit.
    """
    values: dict[str, Any] = {"gpus": cluster.gpus}
    for word in words.split(","):
        key, _, value = word.partition("=")
        try:
            values[key.strip()] = yaml.safe_load(value or "true")
        except yaml.YAMLError:
            raise RecipeError(f"--mesh: {word}: the value is no number, true or false") from None
    return validate(PipelinedMesh, values, "--mesh")


def proposed(jobs: Jobs, cluster: Cluster) -> str:
    """The best meshes of both families.

    Raises:
        Refused: there is none.
    """
    families: tuple[Iterator[Mesh], ...] = (todays(jobs, cluster), pipelined(jobs, cluster))
    found = [each for family in families for each in best(workable(jobs, family, cluster), BEST)]
    if not found:
        raise Refused("no mesh of this cluster can hold the model, neither one that this code runs nor a planned one")
    return proposals(found)


if __name__ == "__main__":
    app()
