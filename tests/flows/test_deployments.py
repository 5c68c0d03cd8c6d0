"""`prefect.yaml` and what its pools make of it: parameters, the Docker container and the Kubernetes manifest."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import re
import uuid

import pytest
import yaml
from workspace import ROOT

from flows.graph import stage_names

DEPLOYMENTS = {entry["name"]: entry for entry in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
NOBODY = object()
"""In place of a client: nothing here refers to a block on a server."""
MANIFESTS = [name for name in DEPLOYMENTS if name.endswith("-kubernetes")]


def test_four_deployments_on_each_of_three_pools() -> None:
    kinds = {"chain", "data", "training", "evaluation"}
    assert set(DEPLOYMENTS) == {"grid"} | {kind + pool for kind in kinds for pool in ("", "-docker", "-kubernetes")}


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_parameters_fit_the_flow(name: str) -> None:
    entry = DEPLOYMENTS[name]
    file, function = entry["entrypoint"].split(":")
    flow = getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), function)
    parameters = entry.get("parameters", {"changes": ["rl.tau=1,2"]} if name == "grid" else {})
    inspect.signature(flow.fn).bind(**parameters)
    flow.validate_parameters(parameters)
    assert set(parameters.get("targets", [])) <= set(stage_names(ROOT))


def test_data_and_training_together_are_the_chain() -> None:
    """Whoever runs one after the other has everything up to RL."""
    from flows.graph import read_graph

    data, training = (DEPLOYMENTS[name]["parameters"] for name in ("data", "training"))
    first = set(read_graph(ROOT, tuple(data["targets"])).stages)
    second = read_graph(ROOT, tuple(training["targets"]), training["from_stage"])
    needed = set(read_graph(ROOT, tuple(training["targets"])).stages)
    assert needed <= first | set(second.stages)
    assert "evaluate@rl" in read_graph(ROOT, (), "evaluate@rl").stages


def test_the_stages_named_by_the_file_are_those_of_dvc() -> None:
    from flows.graph import read_graph

    assert set(stage_names(ROOT)) == set(read_graph(ROOT).stages)


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_kubernetes_manifest_is_valid(name: str) -> None:
    import kubernetes_validate

    manifest = asyncio.run(_manifest(DEPLOYMENTS[name]))
    kubernetes_validate.validate(manifest, "1.31", strict=True)
    pod = manifest["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "k2-recipe:latest"
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "k2-workspace"
    assert "prefect" in " ".join(container["args"])
    assert container["workingDir"] == DEPLOYMENTS[name]["pull"][0][
        "prefect.deployments.steps.set_working_directory"]["directory"]  # fmt: skip

    container["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, "1.31", strict=True)


async def _manifest(entry: dict) -> dict:
    """What the Kubernetes worker would send to the cluster for a run of a deployment."""
    from prefect.client.schemas.objects import FlowRun
    from prefect_kubernetes.worker import KubernetesWorkerJobConfiguration

    template = json.loads((ROOT / "deploy" / "kubernetes.json").read_text())
    configuration = await KubernetesWorkerJobConfiguration.from_template_and_values(
        base_job_template=template, values=entry["work_pool"]["job_variables"], client=NOBODY
    )
    configuration.prepare_for_flow_run(FlowRun(flow_id=uuid.uuid4(), name="a run"))
    return configuration.job_manifest


@pytest.mark.parametrize("name", [name for name in DEPLOYMENTS if name.endswith("-docker")])
def test_docker_takes_the_variables(name: str) -> None:
    from prefect_docker.worker import DockerWorker

    template, variables = DockerWorker.get_default_base_job_template(), DEPLOYMENTS[name]["work_pool"]["job_variables"]
    assert set(variables) <= set(template["variables"]["properties"])
    made = asyncio.run(DockerWorker.job_configuration.from_template_and_values(template, variables, client=NOBODY))
    assert made.image == "k2-recipe:latest"
    assert made.volumes == ["k2-workspace:/workspace"]


def test_the_image_has_what_setup_needs() -> None:
    """No Docker engine runs here: what the file copies and runs is checked by reading it."""
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    copied = re.search(r"^COPY (.*) \./$", text, re.MULTILINE)
    assert copied
    ready = re.search(r"^\.venv/\.ready: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert ready and set(ready.group(1).split()) < set(copied.group(1).split())
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(copied.group(1).split()) == allowed
