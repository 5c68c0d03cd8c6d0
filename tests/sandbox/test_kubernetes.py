"""The sandbox of a cluster, against a server that speaks the API's words and runs the pods' commands in a local one."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
from collections.abc import Iterator

import kubernetes_validate
import pytest
import yaml
from aiohttp import web
from typer.testing import CliRunner
from workspace import ROOT

from k2core.coding.formats import ProblemFile
from k2core.evals import __main__ as evals
from k2core.evals.suites import runnable
from k2core.gym.coding import Coding
from k2core.machine import Compute
from k2core.recipe import RecipeError, validate
from k2core.sandbox.backends import fault, missing
from k2core.sandbox.base import Limits, SandboxError
from k2core.sandbox.bubblewrap import Bubblewrap
from k2core.sandbox.config import SandboxConfig, chosen
from k2core.sandbox.kubernetes import Kubernetes
from k2core.sandbox.local import ENVIRONMENT, interpreter
from k2core.sandbox.seccomp import program
from k2core.stage import Job
from stages import programs
from stages.needs.programs import a_sandbox

SECTION = {"kubernetes": {"namespace": "ours", "image": "ours/python:1", "runtime_class": "gvisor"}}


class Cluster:
    """A stand-in API server: one pod for each Job, running at the second look."""

    def __init__(self) -> None:
        self.jobs: dict[str, dict] = {}
        self.deleted: list[str] = []
        self.looks, self.phase, self.policy = 0, "Running", True

    def app(self) -> web.Application:
        app = web.Application()
        batch, core = "/apis/batch/v1/namespaces/ours/jobs", "/api/v1/namespaces/ours/pods"
        app.add_routes([
            web.get("/apis/networking.k8s.io/v1/namespaces/ours/networkpolicies/k2-sandbox", self.read_policy),
            web.post(batch, self.create), web.delete(batch + "/{name}", self.delete),
            web.get(core, self.pods), web.get(core + "/{name}/exec", self.exec),
        ])  # fmt: skip
        return app

    async def read_policy(self, request: web.Request) -> web.Response:
        if not self.policy:
            return web.json_response({"reason": "NotFound"}, status=404)
        return web.json_response({"metadata": {"name": "k2-sandbox"}, "spec": {"podSelector": {}}})

    async def create(self, request: web.Request) -> web.Response:
        job = await request.json()
        kubernetes_validate.validate(job, "1.31", strict=True)
        self.jobs[job["metadata"]["name"]] = job
        return web.json_response(job, status=201)

    async def delete(self, request: web.Request) -> web.Response:
        self.deleted.append(request.match_info["name"])
        return web.json_response({"kind": "Status", "status": "Success"})

    async def pods(self, request: web.Request) -> web.Response:
        self.looks += 1
        job = request.query["labelSelector"].removeprefix("job-name=")
        assert job in self.jobs
        phase = self.phase if self.looks > 1 else "Pending"
        return web.json_response({"items": [{"metadata": {"name": job + "-x"}, "status": {"phase": phase}}]})

    async def exec(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(protocols=["v4.channel.k8s.io"])
        await socket.prepare(request)
        assert request.query["stdin"] == "True" and request.query["tty"] == "False"
        readable, writable = os.pipe()
        os.write(writable, program())
        os.close(writable)
        command = [interpreter()[0], *request.query.getall("command")[1:]]
        process = await asyncio.create_subprocess_exec(
            *Bubblewrap(Limits(), {})._words(readable), *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, pass_fds=[readable], env=ENVIRONMENT,
        )  # fmt: skip
        os.close(readable)

        async def listen() -> None:
            async for part in socket:
                assert part.data[0] == 0
                process.stdin.write(part.data[1:])
                await process.stdin.drain()

        async def tell(channel: int, stream: asyncio.StreamReader) -> None:
            while data := await stream.read(1000):
                await socket.send_bytes(bytes([channel]) + data)

        listening = asyncio.create_task(listen())
        await asyncio.gather(tell(1, process.stdout), tell(2, process.stderr))
        status = await process.wait()
        said = {"status": "Success"} if not status else {"details": {"causes": [{"message": str(status)}]}}
        await socket.send_bytes(b"\3" + json.dumps(said).encode())
        listening.cancel()
        await socket.close()
        return socket


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Iterator[Cluster]:
    made, loop, started, port = Cluster(), asyncio.new_event_loop(), threading.Event(), []

    async def start() -> web.AppRunner:
        runner = web.AppRunner(made.app(), shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port.append(site._server.sockets[0].getsockname()[1])
        started.set()
        return runner

    def serve() -> None:
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=serve)
    thread.start()
    assert started.wait(10)
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "c", "users": [{"name": "u", "user": {}}],
        "clusters": [{"name": "k", "cluster": {"server": f"http://127.0.0.1:{port[0]}"}}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    }  # fmt: skip
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    for module in ("config", "config.kube_config"):
        monkeypatch.setattr(f"kubernetes_asyncio.{module}.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
    yield made
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def sandbox(**files: bytes) -> Kubernetes:
    return Kubernetes(Limits(wall=5), files, namespace="ours")


needs_bubblewrap = pytest.mark.skipif(bool(fault(Bubblewrap)), reason=fault(Bubblewrap) or "there")


@needs_bubblewrap
def test_a_command_runs_in_a_pod_and_its_files_come_back(cluster):
    with sandbox(a=b"x" * 200_000) as made:
        script = "import sys; print(len(open('a').read()), input()); open('b', 'w').write('new'); sys.exit(3)"
        done = made.exec(["python", "-c", script], b"said\n")
        assert (done.status, done.stdout, made.read_file("b")) == (3, b"200000 said\n", b"new"), done
    assert list(cluster.jobs) == cluster.deleted and len(cluster.deleted) == 1


@needs_bubblewrap
def test_a_command_without_end_is_killed_and_its_job_deleted(cluster):
    made = Kubernetes(Limits(wall=1), {}, namespace="ours")
    assert made.exec(["python", "-c", "while True: pass"]).timed_out
    assert list(cluster.jobs) == cluster.deleted


def test_a_pod_that_fails_is_one_sentence_and_its_job_is_deleted(cluster):
    cluster.phase = "Failed"
    with pytest.raises(SandboxError, match=r"its phase is Failed\); look at its events"):
        sandbox().exec(["true"])
    assert list(cluster.jobs) == cluster.deleted


def test_without_the_network_policy_nothing_is_run(cluster):
    cluster.policy = False
    with pytest.raises(SandboxError, match="the cluster makes no sandbox in namespace ours: Not Found"):
        sandbox().exec(["true"])
    assert not cluster.jobs


@pytest.fixture
def in_the_cluster(cluster) -> Iterator[Cluster]:
    """A recipe's section `sandbox` has been applied; without the pause of a pod that has to start."""
    cluster.looks = 1
    here = chosen()
    validate(SandboxConfig, SECTION, "r.yaml: sandbox").apply()
    yield cluster
    here.apply()


@needs_bubblewrap
def test_a_recipe_that_names_a_cluster_has_its_programs_judged_there(in_the_cluster, tmp_path):
    """By the stage, and by the environment of RL and of the evaluations."""
    lines = [
        {"task_id": n, "text": "Double.", "code": f"def f(x):\n    return {n} * x", "test_list": ["assert f(2) == 4"]}
        for n in (2, 3)
    ]
    (tmp_path / "mbpp.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    file = ProblemFile(format="mbpp", path=str(tmp_path / "mbpp.jsonl"), split="heldout", most=9)
    figures = programs.run(
        programs.Params(problems={"ours": file}, packages={}, test_files=1),
        Compute(threads=1, seed=1, device="cpu", backend="auto", precision="fp32"),
        validate(SandboxConfig, SECTION, "r.yaml: sandbox"),
        tmp_path / "out",
        Job("programs", tmp_path / "scratch", None),
    )
    assert (figures["problems/ours"], figures["problems_refused/ours"]) == (1.0, 1.0)
    environment = runnable(Coding.load(tmp_path / "out"), "programs.problems")
    item = environment.item(0, "heldout", 0)
    assert environment.score(item, item.gold["content"]) == 1.0
    assert environment.score(item, "```python\ndef f(x):\n    return 0\n```") == 0.0
    assert len(in_the_cluster.jobs) == 5 and sorted(in_the_cluster.jobs) == sorted(in_the_cluster.deleted)
    for job in in_the_cluster.jobs.values():
        pod = job["spec"]["template"]["spec"]
        assert (pod["runtimeClassName"], pod["containers"][0]["image"]) == ("gvisor", "ours/python:1")


def test_the_command_that_scores_models_runs_programs_where_a_recipe_says(in_the_cluster, monkeypatch, tmp_path):
    in_the_cluster.policy = False
    SandboxConfig(kubernetes=None).apply()
    monkeypatch.setattr(evals, "_score", lambda *arguments: print(missing()))  # what its suites ask first
    for section, status, said in (
        (SECTION, 0, "no model-written code is run: the cluster makes no sandbox in namespace ours: Not Found"),
        ({"kubernetes": "ours"}, 1, "sandbox.kubernetes = 'ours': "),
    ):
        (tmp_path / "r.yaml").write_text(yaml.safe_dump({"sandbox": section}))
        done = CliRunner().invoke(evals.app, ["a model", "--recipe", str(tmp_path / "r.yaml")])
        assert done.exit_code == status and said in done.output, done.output


def test_a_cluster_that_makes_no_sandbox_is_a_fault_of_the_recipe(cluster):
    made = programs.Params(problems={}, packages={"shortuuid": 1}, test_files=1)
    cluster.policy = False
    (fault,) = a_sandbox(made, validate(SandboxConfig, SECTION, ""))
    assert fault == (
        "programs: no model-written code is run: the cluster makes no sandbox in namespace ours: Not Found; "
        "see sandbox.kubernetes in the recipe"
    )
    assert chosen() == SandboxConfig(kubernetes=None), "a check changes nothing"
    with pytest.raises(RecipeError, match=r"r\.kubernetes\.runtime_class: missing"):
        validate(SandboxConfig, {"kubernetes": {"namespace": "a", "image": "b"}}, "r")


def test_the_manifests_are_valid_and_give_the_pod_no_rights():
    made = Kubernetes(Limits(), {}, runtime="gvisor")
    job = made.manifest()
    kubernetes_validate.validate(job, "1.31", strict=True)
    kubernetes_validate.validate(made.network_policy(), "1.31", strict=True)
    page = (ROOT / "docs" / "sandbox.md").read_text()
    shown = {(block := yaml.safe_load(each.split("```")[0])).get("kind"): block for each in page.split("```yaml\n")[1:]}
    assert shown["NetworkPolicy"] == made.network_policy()
    validate(SandboxConfig, shown[None]["sandbox"], "docs/sandbox.md")
    pod = job["spec"]["template"]["spec"]
    rights = pod["containers"][0]["securityContext"]
    assert rights["capabilities"] == {"drop": ["ALL"]} and not rights["allowPrivilegeEscalation"]
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    assert pod["runtimeClassName"] == "gvisor" and job["spec"]["template"]["metadata"]["labels"] == {
        **made.network_policy()["spec"]["podSelector"]["matchLabels"]
    }
