"""Launch files: shells read them, a stand-in for Slurm runs one, Kubernetes' schema takes the pods."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from k2core.planning.cluster import H800
from k2core.planning.launch import Launch, app, command_of, slurm

K2, H100 = Path("recipes/k2.yaml"), H800.with_name("h100-2048.yaml")


def rendered(on: str, recipe: Path = K2, stage: str = "pretrain@stable") -> str:
    done = CliRunner().invoke(app, [str(recipe), "--cluster", str(H100), "--on", on, "--stage", stage])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("on", ["torchrun", "slurm"])
@pytest.mark.parametrize("stage", ["pretrain@long", "extend_context"])
def test_shells_read_the_scripts(on: str, stage: str, tmp_path: Path) -> None:
    script = tmp_path / "run.sh"
    script.write_text(rendered(on, stage=stage))
    assert subprocess.run(["bash", "-n", script], check=True).returncode == 0
    text = script.read_text()
    assert "--nnodes 64 --nproc-per-node 8" in text and f"dvc commit -f {stage}" in text
    assert command_of(stage).removeprefix("python ") in text and "${" not in command_of(stage)
    if on == "slurm":
        assert "#SBATCH --nodes=64" in text and "#SBATCH --gpus-per-node=8" in text


def test_a_stand_in_for_slurm_starts_all_processes(tmp_path: Path) -> None:
    """`srun` runs its command once per node, `scontrol` names the nodes, and `dvc` says what it was asked."""
    found = Launch("pretrain@stable", f"{tmp_path / 'worker.py'} --out here", nodes=2, per_node=2)
    (tmp_path / "worker.py").write_text(
        "import os, pathlib, sys\n"
        "rank, world = os.environ['RANK'], os.environ['WORLD_SIZE']\n"
        f"pathlib.Path({str(tmp_path)!r}, 'rank-' + rank).write_text(world + ' '.join(sys.argv[1:]))\n"
    )
    programs = {
        "srun": 'shift 4\n"$@" &\n"$@" &\nwait %1 && wait %2\n',
        "scontrol": "echo 127.0.0.1\necho other\n",
        "dvc": f'echo "$@" > {tmp_path / "dvc"}\n',
        "python": f'exec {sys.executable} "$@"\n',
    }
    for name, content in programs.items():
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/bash\nset -m\n{content}")
        program.chmod(0o755)
    script = tmp_path / "run.sh"
    script.write_text(slurm(found))
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "SLURM_JOB_NODELIST": "n[1-2]"}
    subprocess.run(["sh", script], check=True, env={**env, "SLURM_JOB_ID": "7"}, timeout=120)
    assert {path.name: path.read_text() for path in tmp_path.glob("rank-*")} == {
        f"rank-{rank}": "4--out here" for rank in range(4)
    }
    assert (tmp_path / "dvc").read_text().strip() == "commit -f pretrain@stable"


def test_kubernetes_takes_the_pods_of_the_jobset() -> None:
    """JobSet's own schema is not at hand: its keys are those of its examples, and its Job is checked in full."""
    import kubernetes_validate

    manifest = yaml.safe_load(rendered("kubernetes"))
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    [job] = manifest["spec"]["replicatedJobs"]
    whole = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, **job["template"]}
    kubernetes_validate.validate(whole, "1.31", strict=True)
    spec = job["template"]["spec"]
    assert spec["completions"] == spec["parallelism"] == 64
    [container] = spec["template"]["spec"]["containers"]
    name = manifest["metadata"]["name"]
    assert (
        f"--master-addr {name}-{job['name']}-0-0.{manifest['spec']['network']['subdomain']}" in container["command"][2]
    )
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"


def test_what_cannot_be_started_is_refused(tmp_path: Path) -> None:
    def refused(*words: str) -> str:
        done = CliRunner().invoke(app, [*words, "--cluster", str(H100)])
        assert done.exit_code == 1
        return done.output

    assert "dvc.yaml has no stage pretrain" in refused(str(K2), "--on", "slurm", "--stage", "pretrain")
    assert "no stage pretrain@stables (did you mean pretrain@stable?)" in refused(
        str(K2), "--on", "slurm", "--stage", "pretrain@stables"
    )
    assert "stage evaluate@base runs in one process: `dvc repro evaluate@base`; in several run pretrain" in refused(
        str(K2), "--on", "slurm", "--stage", "evaluate@base"
    )
    assert "did you mean slurm" in refused(str(K2), "--on", "slrum")
    recipe = tmp_path / "odd.yaml"
    recipe.write_text(f"extends: {K2.resolve().with_name('laptop')}\nparallel: {{processes: 12}}\n")
    assert "parallel.processes 12 are no whole nodes of 8 GPUs" in refused(str(recipe), "--on", "slurm")
