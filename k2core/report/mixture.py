"""The mixture as a table: `data/mixture/manifest.yaml`, phase × domain, with tokens and epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from k2core.storage import StorageError


@dataclass(frozen=True)
class Mixture:
    """`phases`: phase → domain → its figures, those of a group (`upsampling`) as `upsampling q1`; and the warnings."""

    phases: dict[str, dict[str, dict[str, float]]]
    warnings: list[str]

    @property
    def columns(self) -> list[str]:
        """Names of the figures, in the manifest's order."""
        return list(dict.fromkeys(name for rows in self.phases.values() for row in rows.values() for name in row))


def read_manifest(path: Path, order: Sequence[str]) -> Mixture:
    """The manifest of the mixture's plan; phases that `order` does not name come last.

    Raises:
        StorageError: the file is missing, or lacks tokens or epochs of a domain.
    """
    places = {phase: place for place, phase in enumerate(order)}
    try:
        content = yaml.safe_load(path.read_text())
    except (FileNotFoundError, yaml.YAMLError) as error:
        raise StorageError(f"{path}: not a readable manifest ({error}); run the stage that makes it") from None
    try:
        phases = {
            phase: {domain: _flat(figures) for domain, figures in plan["domains"].items()}
            for phase, plan in sorted(content["phases"].items(), key=lambda item: places.get(item[0], len(places)))
        }
        warnings = list(content["warnings"])
    except (KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{path}: not phases, their domains and warnings ({error!r}); run its stage again") from None
    for phase, domains in phases.items():
        for domain, figures in domains.items():
            if not {"tokens", "epochs"} <= figures.keys():
                raise StorageError(
                    f"{path}: phases.{phase}.{domain} has no tokens and epochs, but {', '.join(figures)}"
                )
    return Mixture(phases, warnings)


def _flat(figures: dict[str, Any]) -> dict[str, float]:
    flat: dict[str, float] = {}
    for name, value in sorted(figures.items(), key=lambda item: isinstance(item[1], dict)):
        flat |= {f"{name} {part}": each for part, each in value.items()} if isinstance(value, dict) else {name: value}
    return flat
