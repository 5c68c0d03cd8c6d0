"""`dvc gc` that keeps what registered models need: `python -m k2core.tracking.clean [OPTIONS OF dvc gc]`.

Without options it removes from DVC's cache what the workspace does not use; `--cloud` does so in the remote, too. The
references of all versions in MLflow's registry go to a DVC project of their own, which `dvc gc` is told to spare.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from k2core.recipe import mask
from k2core.storage import write_text
from k2core.storage.atomic import remove
from k2core.storage.foreign import one_line
from k2core.tracking.uri import tracking_uri

KEPT = Path("work") / "registered"
"""The project with the references."""


def spare(root: Path) -> int:
    """Write the project `root/work/registered`; how many versions it has.

    Raises:
        SystemExit: MLflow does not answer, so that nobody knows what must be kept.
    """
    from dvc.repo import Repo
    from mlflow.tracking import MlflowClient

    from k2core.tracking.champion import NAME

    try:
        versions = MlflowClient(tracking_uri(root)).search_model_versions(f"name = '{NAME}'")
    except Exception as error:  # noqa: BLE001 (SQLAlchemy's own, a driver that is not installed)
        raise SystemExit(
            f"nothing was removed: MLflow does not say what is registered ({mask(one_line(error))})"
        ) from None
    with Repo(str(root)) as repo:
        cache = repo.cache.local_cache_dir
    project = root / KEPT
    remove(project)
    write_text(project / ".dvc" / "config", f"[core]\n    no_scm = true\n[cache]\n    dir = {cache}\n")
    for version in versions:
        out = {"md5": version.tags["k2.md5"], "hash": "md5", "path": f"version-{version.version}"}
        write_text(project / f"version-{version.version}.dvc", yaml.safe_dump({"outs": [out]}))
    return len(versions)


def main() -> None:
    count = spare(Path.cwd())
    print(f"{count} registered versions are kept", flush=True)
    options = sys.argv[1:] or ["--workspace"]
    done = subprocess.run([sys.executable, "-m", "dvc", "gc", "--projects", str(KEPT), *options], check=False)
    raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
