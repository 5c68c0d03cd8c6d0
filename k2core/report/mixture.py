"""The mixture as a table: `data/mixture/manifest.yaml`, phase × domain, with tokens and epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from k2core.storage import StorageError

Manifest = dict[str, dict[str, dict[str, Any]]]


def read_manifest(path: Path) -> Manifest:
    """Phase → domain → its figures (`tokens`, `epochs`, …).

    Raises:
        StorageError: the file is missing or says less than tokens and epochs of each domain.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (FileNotFoundError, yaml.YAMLError) as error:
        raise StorageError(f"{path}: not a readable manifest ({error}); run the stage that makes it") from None
    phases = content.get("phases") if isinstance(content, dict) else None
    if not isinstance(phases, dict):
        raise StorageError(f"{path}: no phases in it; run the stage that makes it again")
    for phase, domains in phases.items():
        for domain, figures in domains.items():
            if not {"tokens", "epochs"} <= figures.keys():
                raise StorageError(
                    f"{path}: phases.{phase}.{domain} has no tokens and epochs, but {', '.join(figures)}"
                )
    return phases
