"""The command: `python -m k2core.planning.launch RECIPE --cluster FILE --on torchrun|slurm|kubernetes --stage NAME`.

Prints what starts a stage's processes: a script for every machine, one for `sbatch`, or a JobSet for `kubectl apply`.
Nodes and GPUs come from the recipe's section `parallel` and from the cluster, the stage's command line from dvc.yaml.
The stage itself reads params.yaml: make that recipe the active one first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import typer
import yaml

from k2core.planning.cluster import Cluster, load_cluster
from k2core.recipe import RecipeError, did_you_mean, read_recipe, section_of
from k2core.recipe.reading import read_yaml
from k2core.training.config import ParallelConfig

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
PORT = 29500


@dataclass(frozen=True)
class Launch:
    """One stage on `nodes` machines with `per_node` processes each; `words` is its command line after `python`."""

    stage: str
    words: str
    nodes: int
    per_node: int

    def torchrun(self, *options: str) -> str:
        """The command that starts a node's processes; `options` say how the nodes meet."""
        sizes = f"--nnodes {self.nodes} --nproc-per-node {self.per_node}"
        return " ".join(["python -m torch.distributed.run", sizes, *options, self.words])


def torchrun(found: Launch) -> str:
    """A script that every machine runs, with the same K2_RENDEZVOUS."""
    meet = f'--rdzv-backend c10d --rdzv-endpoint "$K2_RENDEZVOUS" --rdzv-id {_name(found)}'
    return f"""#!/bin/sh
# On each of {found.nodes} machines, in the shared folder: K2_RENDEZVOUS=HOST:{PORT} sh THIS
# Afterwards, on one: dvc commit -f {found.stage}
: "${{K2_RENDEZVOUS:?set it to HOST:PORT of one of the machines}}"
exec {found.torchrun(meet)}
"""


def slurm(found: Launch) -> str:
    """A script for `sbatch`: it starts one torchrun per node, and lets DVC record the outputs."""
    meet = '--rdzv-backend c10d --rdzv-endpoint "$K2_RENDEZVOUS" --rdzv-id "$SLURM_JOB_ID"'
    return f"""#!/bin/sh
#SBATCH --job-name={_name(found)}
#SBATCH --nodes={found.nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={found.per_node}
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
set -e
K2_RENDEZVOUS="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):{PORT}"
export K2_RENDEZVOUS
srun --nodes {found.nodes} --ntasks-per-node 1 {found.torchrun(meet)}
dvc commit -f {found.stage}
"""


def kubernetes(found: Launch) -> str:
    """A JobSet (jobset.x-k8s.io/v1alpha2): a pod per node, which finds the first one by its name."""
    name = _name(found)
    first = f"{name}-node-0-0.{name}"
    command = found.torchrun(f'--node-rank "$JOB_COMPLETION_INDEX" --master-addr {first} --master-port {PORT}')
    container = {
        "name": "trainer", "image": "k2-recipe", "workingDir": "/workspace", "command": ["sh", "-c", f"exec {command}"],
        "ports": [{"containerPort": PORT}], "resources": {"limits": {"nvidia.com/gpu": str(found.per_node)}},
        "volumeMounts": [
            {"name": "workspace", "mountPath": "/workspace"}, {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }  # fmt: skip
    pod = {
        "restartPolicy": "Never", "terminationGracePeriodSeconds": 300, "containers": [container],
        "volumes": [
            {"name": "workspace", "persistentVolumeClaim": {"claimName": "k2-workspace"}},
            {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
        ],
    }  # fmt: skip
    job = {"spec": {
        "completionMode": "Indexed", "parallelism": found.nodes, "completions": found.nodes, "backoffLimit": 0,
        "template": {"spec": pod},
    }}  # fmt: skip
    manifest = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": {"name": name},
        "spec": {
            "network": {"enableDNSHostnames": True, "subdomain": name}, "failurePolicy": {"maxRestarts": 3},
            "replicatedJobs": [{"name": "node", "replicas": 1, "template": job}],
        },
    }  # fmt: skip
    return f"# Afterwards, in the workspace: dvc commit -f {found.stage}\n{yaml.safe_dump(manifest, sort_keys=False)}"


PLACES: dict[str, Callable[[Launch], str]] = {"torchrun": torchrun, "slurm": slurm, "kubernetes": kubernetes}


@app.command()
def main(
    recipe: Path = typer.Argument(help="a recipe; its section `parallel` says how many processes"),
    cluster: Path = typer.Option(help="the machine, e.g. k2core/planning/h100-2048.yaml"),
    on: str = typer.Option(help="torchrun, slurm or kubernetes"),
    stage: str = typer.Option("pretrain@stable", help="a stage of dvc.yaml that runs in several processes"),
) -> None:
    """Print what starts the processes of a stage of RECIPE on a cluster."""
    try:
        if on not in PLACES:
            raise RecipeError(f"--on {on}: no such place{did_you_mean(on, PLACES)}; there are: {', '.join(PLACES)}")
        parallel = section_of(ParallelConfig, read_recipe(recipe), recipe, "parallel")
        print(PLACES[on](launch(parallel, load_cluster(cluster), stage)), end="")
    except RecipeError as error:
        print(f"launch: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


def launch(parallel: ParallelConfig, cluster: Cluster, stage: str) -> Launch:
    """How the stage is started.

    Raises:
        RecipeError: there is no such stage, or its processes do not fill nodes of the cluster.
    """
    processes, per_node = parallel.processes, min(parallel.processes, cluster.gpus_per_node)
    if processes % per_node or processes > cluster.gpus:
        raise RecipeError(
            f"parallel.processes {processes} are no whole nodes of {cluster.gpus_per_node} GPUs, of which the cluster "
            f"has {cluster.gpus // cluster.gpus_per_node}"
        )
    return Launch(stage, command_of(stage).removeprefix("python "), processes // per_node, per_node)


def command_of(stage: str) -> str:
    """The command line of a stage of dvc.yaml, `NAME` or `NAME@KEY`.

    Raises:
        RecipeError: there is none, or it runs in one process alone.
    """
    name, _, key = stage.partition("@")
    stages = read_yaml(Path("dvc.yaml"))["stages"]
    found = stages.get(name, {})
    what = found.get("do") or found
    command = str(what.get("cmd", ""))
    each = found.get("foreach", {})
    if not command or (key not in each if each else key):
        names = [f"{name}@{one}" for one in each] if each else list(stages)
        raise RecipeError(f"dvc.yaml has no stage {stage}{did_you_mean(stage, names)}")
    if "parallel" not in what.get("params", []):
        able = [one for one, other in stages.items() if "parallel" in (other.get("do") or other).get("params", [])]
        raise RecipeError(f"stage {stage} runs in one process: `dvc repro {stage}`; in several run {', '.join(able)}")
    for word, value in (each[key] if key else {}).items():
        command = command.replace(f"${{item.{word}}}", value)
    return command.replace("${key}", key).strip()


def _name(found: Launch) -> str:
    return f"k2-{found.stage.replace('@', '-').replace('_', '-')}"


if __name__ == "__main__":
    app()
