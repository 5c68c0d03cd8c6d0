"""The section of the recipe that says where model-written code runs."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from k2core.recipe import Section


class Cluster(Section):
    """Pods of a Kubernetes cluster: the one that this process is in, or the current one of its kubeconfig."""

    namespace: str = Field(min_length=1, description="namespace of the pods; it needs the policy of docs/sandbox.md")
    image: str = Field(min_length=1, description="image of the pods: Python, and what programs import in /packages")
    runtime_class: str = Field(description="RuntimeClass of the pods, such as gvisor; empty: the cluster's default")


class SandboxConfig(Section):
    """Where the code that models write, and the tests of repositories, run."""

    TRACKED: ClassVar[bool] = False  # a program has the same verdict wherever it runs

    kubernetes: Cluster | None = Field(
        description="a cluster's pods: namespace, image, runtime_class; null: this machine, by bubblewrap or namespaces"
    )

    def apply(self) -> None:
        """From now on, all sandboxes of this process are made there."""
        global _chosen
        _chosen = self


_chosen = SandboxConfig(kubernetes=None)


def chosen() -> SandboxConfig:
    """Where this process makes its sandboxes: on this machine, until a recipe says something else."""
    return _chosen
