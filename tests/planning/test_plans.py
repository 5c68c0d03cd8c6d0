"""Plans of K2's size against what its report discloses, refusals, and the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.planned import PAGE, blocks
from k2core.model.counts import count
from k2core.planning.__main__ import app, pipelined_mesh, planned
from k2core.planning.cluster import H800, Cluster, load_cluster
from k2core.planning.jobs import Jobs, read_jobs
from k2core.planning.mesh import Refused, all_to_all, near, ring
from k2core.planning.pipelined import GRADIENT, WEIGHT, PipelinedMesh
from k2core.planning.plan import plan
from k2core.planning.search import todays
from k2core.planning.staged import mesh_of
from k2core.planning.tables import gigabytes, sampling
from k2core.planning.today import Today
from k2core.recipe import RecipeError
from k2core.rl.engine import RolloutsConfig

H100 = H800.with_name("h100-2048.yaml")
K2_MESH = "pipeline=16,virtual=3,experts=16"
"""§2.4.2; how many virtual stages it does not say."""


@pytest.fixture(scope="module")
def k2() -> Jobs:
    return read_jobs(Path("recipes/k2.yaml"))


@pytest.fixture(scope="module")
def small() -> Cluster:
    """The GPUs of one node, with which this code can train the gpu recipe."""
    return load_cluster(H100).model_copy(update={"gpus": 8})


def parallel(jobs: Jobs, **update: object) -> Today:
    return mesh_of(jobs.parallel.model_copy(update=update))


@pytest.mark.parametrize(("cluster", "mesh"), [(H800, f"{K2_MESH},offload=true"), (H100, K2_MESH)])
def test_k2s_mesh_has_the_states_that_the_report_gives(cluster: Path, mesh: str, k2: Jobs) -> None:
    """About 30 GB per GPU, on 32 nodes with the optimiser's state in their memory, and on many without."""
    machine = load_cluster(cluster)
    found = plan(k2, pipelined_mesh(mesh, machine), machine)
    for phase in found.phases:
        assert sum(phase.memory.states.values()) == pytest.approx(30e9, rel=0.1)
    assert (WEIGHT + GRADIENT) * count(k2.model).total == pytest.approx(6e12, rel=0.05)


def test_weights_and_gradients_of_the_stages_are_those_of_the_model(k2: Jobs) -> None:
    """256 GPUs have one copy of the experts, and 16 of all else."""
    mesh, found = PipelinedMesh(pipeline=16, virtual=3, experts=16, gpus=256), count(k2.model)
    first, inner, last = mesh._stages(k2)
    layers = (61 - 13 * 4) / 3  # the first, the last and one more have three layers
    whole = sum(sum(stage) for stage in (first, last)) + 14 * sum(inner) - sum(inner) * (4 - layers) / 4
    assert whole + found.norms == pytest.approx(found.total, rel=1e-6)


def test_pipelines_are_faster_with_fewer_bubbles_and_slower_on_slower_links(k2: Jobs) -> None:
    machine = load_cluster(H100)

    def days(mesh: str, **update: float) -> float:
        changed = machine.model_copy(update=update)
        return plan(k2, pipelined_mesh(mesh, changed), changed).hours / 24

    assert days("pipeline=16,virtual=3,experts=16") < days("pipeline=16,virtual=1,experts=16")
    assert days(K2_MESH) == pytest.approx(2 * days(K2_MESH, share_of_peak=0.38), rel=0.01)
    assert days(K2_MESH, between_gb_s=5.0) > 3 * days(K2_MESH)
    hours = 24 * days(K2_MESH) * 2048  # what glance's table and DeepSeek-V3's rate would give is 2.5e6
    assert 4e6 < hours < 6e6


REFUSED = {
    "pipeline=15,experts=16": "2048 GPUs cannot be divided into 15 equal stages; the nearest that can: pipeline "
    "16 × 1, experts over 16, 2048 GPUs, micro-batches of 8,192",
    "pipeline=16,experts=5": "a stage's 128 ranks are not a multiple of the 5 that share experts; the nearest that "
    "can: pipeline 16 × 1, experts over 16, 2048 GPUs, micro-batches of 8,192",
    "pipeline=64,experts=16": "61 layers are fewer than 64 × 1 pieces of a pipeline; the nearest that can: "
    "pipeline 32 × 1, experts over 16, 2048 GPUs, micro-batches of 8,192",
    "pipeline=4,experts=1": "stable: a GPU needs 1642 GB of weights, gradients and optimiser alone and has 74",
    "pipeline=16,experts=16,gpus=4096": "4096 GPUs are more than the cluster's 2048; the nearest that can: pipeline",
    "pipeline=16,experts=16,micro_batch_tokens=131072": "stable: 4 micro-batches are not a multiple of 16 stages",
}


@pytest.mark.parametrize(("mesh", "sentence"), REFUSED.items())
def test_a_pipeline_that_cannot_be_is_refused_with_the_nearest(mesh: str, sentence: str, k2: Jobs) -> None:
    with pytest.raises(Refused) as refused:
        planned(k2, load_cluster(H100), mesh)
    assert str(refused.value).startswith(sentence) and "; the nearest that can: " in str(refused.value)


def test_a_mesh_of_today_is_refused_with_the_nearest(small: Cluster) -> None:
    jobs = read_jobs(Path("recipes/gpu.yaml"))
    refused = {
        (16, 1, 1): "16 processes are more than the cluster's 8 GPUs",
        (6, 1, 6): "64 routed experts cannot be shared out equally over 6 ranks",
        (6, 1, 1): "stable: 64 rows per step cannot be shared out over 6 groups equally",
        (6, 3, 1): "stable: rows of 2048 tokens cannot be cut into 2 × 3 equal chunks",
    }
    for (processes, context, experts), sentence in refused.items():
        with pytest.raises(Refused, match=sentence):
            plan(jobs, parallel(jobs, processes=processes, context=context, experts=experts), small)
    jobs = Jobs(jobs.model, jobs.precision, parallel(jobs, processes=6).parallel, jobs.pretraining, jobs.post)
    with pytest.raises(Refused, match="2 micro-batches per step are not a multiple of the pipeline's 4 stages"):
        plan(jobs, parallel(jobs, processes=8, pipeline=4, micro_batch_tokens=32768), small)
    with pytest.raises(Refused, match="6 groups equally; the nearest that can: FSDP2 over 8, context 1, micro-batches"):
        planned(jobs, small, "")


def test_more_experts_than_a_stage_has_gpus_are_refused_with_the_nearest(small: Cluster) -> None:
    with pytest.raises(
        Refused, match=r"4 ranks are not a multiple of the 8 .*; the nearest that can: pipeline 2 × 2, exp"
    ):
        planned(read_jobs(Path("recipes/gpu.yaml")), small, "pipeline=2,virtual=2,experts=8,gpus=8")


def test_a_pipeline_of_today_is_refused_with_the_nearest(k2: Jobs) -> None:
    half = load_cluster(H100).model_copy(update={"gpus": 512})
    for changes in ({"virtual": 4}, {"recompute": False}):
        with pytest.raises(
            Refused, match=r"the nearest that can: pipeline 16 × 3, FSDP2 over 32, context 16, .* recomp"
        ):
            planned(replace(k2, parallel=k2.parallel.model_copy(update=changes)), half, "")


def test_what_is_no_mesh_no_cluster_and_no_phase_is_said(k2: Jobs, tmp_path: Path) -> None:
    for words in ("pipeline=[1", "pipeline=@x", "pipeline=*a"):
        with pytest.raises(RecipeError, match=r"--mesh: pipeline=.*: the value is no number, true or false"):
            planned(k2, load_cluster(H100), words)
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(H100.read_text().replace("bf16: 989", "bf16: -5"))
    with pytest.raises(RecipeError, match=r"tflops.bf16 = -5.*greater than 0"):
        load_cluster(cluster)
    for phases, sentence in (("[stable]", "no phases by name"), ("{7: {}}", "pretrain.7: no name of a phase")):
        recipe = tmp_path / "odd.yaml"
        recipe.write_text(f"extends: laptop\npretrain: {phases}\n")
        (tmp_path / "laptop.yaml").write_text(Path("recipes/laptop.yaml").read_text())
        with pytest.raises(RecipeError, match=sentence):
            read_jobs(recipe)


def test_a_cluster_of_any_size_is_searched_in_seconds(small: Cluster) -> None:
    huge = small.model_copy(update={"gpus": 8_000_000, "tflops": {"fp32": 60.0}})
    assert len(list(todays(read_jobs(Path("recipes/laptop.yaml")), huge))) < 5000


def test_a_model_that_no_gpu_holds_is_refused(k2: Jobs, small: Cluster) -> None:
    """12 B / 128 of each parameter: every tensor is cut into equal pieces."""
    with pytest.raises(
        Refused, match=r"^stable: a GPU needs 96 GB of weights, gradients and optimiser alone and has 74"
    ):
        flat = {"processes": 128, "experts": 128, "context": 8, "pipeline": 1, "virtual": 1}
        planned(replace(k2, parallel=k2.parallel.model_copy(update=flat)), load_cluster(H100), "")
    tiny = small.model_copy(update={"memory_gb": 7.0})
    with pytest.raises(Refused, match=r"no mesh of this cluster can hold the model"):
        from k2core.planning.__main__ import proposed

        proposed(k2, tiny)


def test_the_recipes_mesh_holds_k2_and_fewer_gpus_do_not(k2: Jobs) -> None:
    found = plan(k2, mesh_of(k2.parallel), load_cluster(H100))
    assert found.fullest.job.name == "extend_context" and found.fullest.memory.peak < 74e9
    with pytest.raises(Refused, match=r"^stable: a GPU needs"):
        plan(k2, parallel(k2, processes=256, experts=16, context=16), load_cluster(H100))


def test_where_a_copy_of_the_policy_does_not_fit_the_plan_says_that_rl_cannot_sample(k2: Jobs, small: Cluster) -> None:
    said, gpu = sampling(k2, load_cluster(H100)), read_jobs(Path("recipes/gpu.yaml"))
    assert "cannot run on its mesh of 512 processes" in said and "a whole copy of the policy in fp32 4,106" in said
    alone = sampling(gpu, small)
    assert "copy" not in alone and alone.endswith("it fits.")
    two = sampling(replace(gpu, parallel=parallel(gpu, processes=2).parallel), small)
    assert f"copy of the policy in fp32 {gigabytes(4 * count(gpu.model).total)}" in two and two.endswith("it fits.")
    assert gpu.rl is not None and k2.rl is not None
    k2.rl.check(k2.parallel.of("rl"))
    server = RolloutsConfig(engine="sglang", base_url="http://host:1", folder="f")
    assert "from a server (sglang)" in sampling(replace(gpu, rl=gpu.rl.model_copy(update={"rollouts": server})), small)


def test_every_byte_goes_inside_a_node_or_between_nodes() -> None:
    for ranks, in_node in ((16, 8), (8, 8), (4, 1), (1, 1)):
        for sent in (all_to_all(1.0, ranks, in_node), ring(1.0, ranks, in_node)):
            assert sent.inside + sent.between == pytest.approx((ranks - 1) / ranks)
    assert [near(16, 1, 8), near(16, 4, 8), near(16, 16, 8), near(4, 1, 8)] == [8, 2, 1, 4]


def test_the_command_answers_and_proposes(tmp_path: Path) -> None:
    def ask(*words: object) -> tuple[int, str]:
        done = CliRunner().invoke(app, [str(word) for word in words])
        return done.exit_code, done.output

    code, text = ask("recipes/k2.yaml", "--cluster", H100, "--mesh", K2_MESH)
    assert code == 0 and "planned as K2 kept its states" in text and "1,026,408,209,408" in text
    code, text = ask("recipes/k2.yaml", "--cluster", H800, "--propose")
    assert code == 0 and text.count("planned as K2 kept its states") == 3 and "this code runs it" not in text
    one = tmp_path / "one.yaml"
    one.write_text(H100.read_text().replace("gpus: 2048", "gpus: 1").replace("per_node: 8", "per_node: 1"))
    code, text = ask("recipes/gpu.yaml", "--cluster", one)
    assert code == 0 and "this code runs it" in text and "exchanges nothing" in text
    one.write_text(one.read_text().replace("share_of_peak: 0.19", "share_of_peak: 1.9"))
    code, text = ask("recipes/gpu.yaml", "--cluster", one)
    assert code == 1 and f"{one}.share_of_peak = 1.9: input should be less than or equal to 1" in text
    assert "--mesh.pipelines: unknown key" in ask("recipes/k2.yaml", "--cluster", H100, "--mesh", "pipelines=2")[1]
    with pytest.raises(RecipeError, match="no such file"):
        load_cluster(tmp_path / "none.yaml")


def test_the_page_has_the_tables_that_the_planner_writes() -> None:
    page = PAGE.read_text()
    assert not [name for name, content in blocks().items() if f"<!-- plan-{name}:begin -->\n{content}\n" not in page]
