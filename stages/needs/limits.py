"""Limits are for stages that exist."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from k2core.recipe import Limits


def known_stages(limits: Limits) -> Iterator[str]:
    """A limit of a stage that `dvc.yaml` does not have would never be applied."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    stages = yaml.load(Path("dvc.yaml").read_text(), Loader=loader)["stages"]
    known = [*stages, *(f"{name}@{item}" for name, stage in stages.items() for item in stage.get("foreach", []))]
    for name in limits.stages:
        if name not in known:
            yield f"limits.stages.{name}: dvc.yaml has no such stage; there are: {', '.join(known)}"
