"""`dvc.lock` as the record of which stage made which bytes from which others."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CODE = ("k2core", "stages")
"""Rooms of source code: a folder of them, or a template in it, is a dependency as a whole."""


@dataclass(frozen=True)
class LockedStage:
    """One entry of `dvc.lock`: paths with their md5, outputs with their bytes, a fingerprint of the whole entry."""

    name: str
    deps: dict[str, str]
    outs: dict[str, str]
    params: dict[str, Any]
    fingerprint: str
    sizes: dict[str, int] = field(default_factory=dict)


def read_lock(root: Path) -> dict[str, LockedStage]:
    """The stages of `root/dvc.lock` by name; empty where nothing has run yet."""
    path = root / "dvc.lock"
    if not path.exists():
        return {}
    entries = (yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}).get("stages", {})
    return {name: _locked(name, entry) for name, entry in entries.items()}


def is_code(path: str) -> bool:
    """Whether a dependency is source code rather than data (lineage follows data)."""
    return path.endswith(".py") or Path(path).parts[0] in CODE


def producers(stages: dict[str, LockedStage], path: str) -> list[str]:
    """Names of the stages whose outputs are `path`, are below it or contain it."""
    wanted = Path(path)
    return [
        stage.name
        for stage in stages.values()
        if any(wanted == Path(out) or wanted in Path(out).parents or Path(out) in wanted.parents for out in stage.outs)
    ]


def behind(stages: dict[str, LockedStage], path: str) -> dict[str, LockedStage]:
    """The stages that led to `path`, each after those whose data it read."""
    ordered: dict[str, LockedStage] = {}

    def visit(path: str) -> None:
        for name in producers(stages, path):
            if name not in ordered:
                for dep in data_deps(stages[name]):
                    visit(dep)
                ordered[name] = stages[name]

    visit(path)
    return ordered


def data_deps(stage: LockedStage) -> dict[str, str]:
    """What a stage depends on besides code: path → md5."""
    return {path: md5 for path, md5 in stage.deps.items() if not is_code(path)}


def upstream_of(stages: dict[str, LockedStage]) -> dict[str, list[str]]:
    """Stage → the stages whose outputs it read."""
    return {
        name: sorted({above for dep in data_deps(stage) for above in producers(stages, dep)} - {name})
        for name, stage in stages.items()
    }


def downstream(stages: dict[str, LockedStage], names: set[str]) -> set[str]:
    """`names` and every stage that depends on one of them, directly or not."""
    reached = set(names)
    while True:
        more = {
            stage.name
            for stage in stages.values()
            if stage.name not in reached
            and any(set(producers(stages, dep)) & reached for dep in stage.deps if not is_code(dep))
        }
        if not more:
            return reached
        reached |= more


def outdated(stages: dict[str, LockedStage]) -> set[str]:
    """Stages whose outputs were made from bytes other than those now at their inputs' paths."""
    made = {path: md5 for stage in stages.values() for path, md5 in stage.outs.items()}
    return {
        stage.name for stage in stages.values() if any(made.get(path, md5) != md5 for path, md5 in stage.deps.items())
    }


def _locked(name: str, entry: dict[str, Any]) -> LockedStage:
    def digests(items: list[dict[str, Any]]) -> dict[str, str]:
        return {item["path"]: item.get("md5", "") for item in items}

    return LockedStage(
        name=name,
        deps=digests(entry.get("deps", [])),
        outs=digests(entry.get("outs", [])),
        params=entry.get("params", {}),
        sizes={item["path"]: item["size"] for item in entry.get("outs", []) if "size" in item},
        fingerprint=hashlib.md5(json.dumps(entry, sort_keys=True, default=str).encode()).hexdigest(),
    )
