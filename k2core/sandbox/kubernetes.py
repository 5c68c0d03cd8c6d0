"""Sandboxes as Kubernetes Jobs: one pod per command, talked to by the API's `exec`, deleted after it.

The pod's container has no rights, no network policy that lets anything through, and no service account; the runner
loads this project's filter before the command. A killed parent leaves a Job that its deadline ends and `ttl` deletes.
The image needs Python 3.11 or later, and the packages that commands import in /packages.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from random import SystemRandom
from typing import TYPE_CHECKING, Any

from k2core.sandbox.base import Limits, SandboxError
from k2core.sandbox.local import BOOT, GRACE, RUNNER, USERS, Local, packed
from k2core.sandbox.namespaces import JAIL
from k2core.sandbox.seccomp import program as filter_program

if TYPE_CHECKING:
    from kubernetes_asyncio.client import CoreV1Api

START = 120
"""Seconds until a pod runs; an image may have to be fetched."""
LABEL = {"app": "k2-sandbox"}
PART = 2**16
SPOOL = """import os
def read(size):
    data = b""
    while len(data) < size:
        data += os.read(0, min(size - len(data), 65536)) or os._exit(1)
    return data
message = read(int.from_bytes(read(8), "little"))
file = os.open("/out", os.O_TMPFILE | os.O_RDWR, 0o600)
while message:
    message = message[os.write(file, message):]
os.lseek(file, 0, os.SEEK_SET)
os.dup2(file, 0)
os.close(file)
"""
"""An exec's input has no end that the other side sees: what comes is counted, and becomes a file."""


class Kubernetes(Local):
    """A sandbox that a cluster makes; the cluster is that of the pod, or the kubeconfig's current one."""

    program = "kubernetes"

    def __init__(
        self, limits: Limits, files: Mapping[str, bytes], packages: Sequence[str] = (), *,
        image: str = "python:3.11-slim", namespace: str = "default", runtime: str = "",
    ) -> None:  # fmt: skip
        """As the other backends.

        Args:
            runtime: a RuntimeClass, such as gvisor, which keeps the node's kernel away from the code.
        """
        super().__init__(limits, files, packages)
        self.image, self.namespace, self.runtime = image, namespace, runtime

    def _user(self) -> None:
        return None

    def _code(self) -> bytes:
        return packed((JAIL, {"PLAN": ([], filter_program(), False)}), (RUNNER, {}), compiled=False)

    def manifest(self) -> dict[str, Any]:
        """The Job of one command."""
        limits = self.limits
        seconds = int(limits.wall + GRACE)
        memory = limits.memory * 2 + 2 * limits.disk + 2 * limits.output
        rooms = {"work": limits.disk, "tmp": limits.disk, "out": 2 * limits.output + limits.disk}
        container = {
            "name": "code", "image": self.image, "command": ["sleep", str(seconds + START)],
            "resources": {"limits": {"cpu": "1", "memory": str(memory)}},
            "securityContext": {
                "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "privileged": False,
                "capabilities": {"drop": ["ALL"]},
            },
            "volumeMounts": [{"name": name, "mountPath": f"/{name}"} for name in rooms],
        }  # fmt: skip
        user = SystemRandom().choice(USERS)  # of its own: the limit of processes counts them by user and node
        pod = {
            "restartPolicy": "Never", "automountServiceAccountToken": False, "enableServiceLinks": False,
            "dnsPolicy": "None", "dnsConfig": {"nameservers": ["127.0.0.1"]}, "hostname": "sandbox",
            "terminationGracePeriodSeconds": 0, "containers": [container],
            "securityContext": {
                "runAsNonRoot": True, "runAsUser": user, "runAsGroup": user,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumes": [
                {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": str(size)}}
                for name, size in rooms.items()
            ],
        }  # fmt: skip
        return {
            "apiVersion": "batch/v1", "kind": "Job",
            "metadata": {"name": f"k2-sandbox-{secrets.token_hex(8)}", "labels": LABEL},
            "spec": {
                "backoffLimit": 0, "activeDeadlineSeconds": seconds + START, "ttlSecondsAfterFinished": 60,
                "template": {
                    "metadata": {"labels": LABEL},
                    "spec": pod | ({"runtimeClassName": self.runtime} if self.runtime else {}),
                },
            },
        }  # fmt: skip

    def network_policy(self) -> dict[str, Any]:
        """What the namespace must have once: nothing goes in or out of the pods."""
        return {
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "k2-sandbox"},
            "spec": {"podSelector": {"matchLabels": LABEL}, "policyTypes": ["Ingress", "Egress"]},
        }  # fmt: skip

    def _exchange(self, message: bytes) -> tuple[int, bytes, bytes]:
        from aiohttp import ClientError
        from kubernetes_asyncio.client import ApiException
        from kubernetes_asyncio.config import ConfigException

        try:
            return asyncio.run(self._command(message))
        except TimeoutError:
            return -9, b"", b""
        except (ApiException, ConfigException, ClientError) as error:
            said = getattr(error, "reason", None) or str(error)
            raise SandboxError(f"the cluster makes no sandbox in namespace {self.namespace}: {said}") from None

    async def _command(self, message: bytes) -> tuple[int, bytes, bytes]:
        from kubernetes_asyncio.client import ApiClient, BatchV1Api, CoreV1Api, NetworkingV1Api
        from kubernetes_asyncio.config import load_config
        from kubernetes_asyncio.stream import WsApiClient

        await load_config()
        job = self.manifest()
        name = job["metadata"]["name"]
        async with ApiClient() as api, WsApiClient() as sockets:
            policy = self.network_policy()["metadata"]["name"]
            await NetworkingV1Api(api).read_namespaced_network_policy(policy, self.namespace)
            batch = BatchV1Api(api)
            await batch.create_namespaced_job(self.namespace, job)  # type: ignore[arg-type]  # takes a dict too
            try:
                pod = await self._running(CoreV1Api(api), name)
                words = ["python", "-S", "-s", "-P", "-B", "-c", SPOOL + BOOT]
                socket = await CoreV1Api(sockets).connect_get_namespaced_pod_exec(
                    pod, self.namespace, command=words, stdin=True,  # type: ignore[arg-type]
                    stdout=True, stderr=True, tty=False, _preload_content=False,
                )  # fmt: skip
                async with asyncio.timeout(self.limits.wall + GRACE):
                    return await _talk(socket, len(message).to_bytes(8, "little") + message)
            finally:
                await batch.delete_namespaced_job(name, self.namespace, propagation_policy="Background")

    async def _running(self, core: CoreV1Api, job: str) -> str:
        """The name of a Job's pod, once it runs."""
        for _ in range(START * 5):
            pods = (await core.list_namespaced_pod(self.namespace, label_selector=f"job-name={job}")).items
            phase = pods[0].status.phase if pods else "Pending"
            if phase == "Running":
                return pods[0].metadata.name
            if phase in ("Failed", "Succeeded"):
                break
            await asyncio.sleep(0.2)
        raise SandboxError(f"the pod of {job} does not run within {START} s (its phase is {phase}); look at its events")


async def _talk(socket: Any, message: bytes) -> tuple[int, bytes, bytes]:
    """Send a message to a process by channel 0; its status, output and errors by channels 3, 1 and 2."""
    from kubernetes_asyncio.stream import WsApiClient

    said: dict[int, bytes] = {1: b"", 2: b"", 3: b""}
    async with socket as opened:
        for at in range(0, len(message), PART):
            await opened.send_bytes(b"\0" + message[at : at + PART])
        async for part in opened:
            channel = part.data[0]
            said[channel] = said.get(channel, b"") + part.data[1:]
    return WsApiClient.parse_error_data(said[3]) if said[3] else 1, said[1], said[2]
