"""A DVC remote on S3 (moto's server): pushed from one clone, pulled in another, where nothing is left to do."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from workspace import Workspace

from k2core.storage import StorageError, dvc_md5
from k2core.tracking.reference import remote_of, resolve


def test_what_one_clone_pushes_another_pulls_and_has_nothing_to_do(
    toy: Workspace, bucket: str, s3_endpoint: str, tmp_path: Path
) -> None:
    account = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    toy.env |= {"K2_TRACKING": "off", **account}
    toy.run("dvc", "remote", "add", "-d", "store", f"{bucket}/dvc")
    toy.run("dvc", "remote", "modify", "store", "endpointurl", s3_endpoint)
    toy.run("dvc", "repro")
    toy.run("dvc", "push")
    who = ("-c", "user.name=k2", "-c", "user.email=k2@localhost")
    toy.run("git", "add", "-A", "-f", ":!data", ":!work", ":!logs")
    toy.run("git", *who, "commit", "-q", "-m", "a run")
    assert remote_of(toy.root) == f"{bucket}/dvc"

    other = Workspace(tmp_path / "other")
    other.env |= {"K2_TRACKING": "off", **account}
    toy.run("git", "clone", "-q", str(toy.root), str(other.root))
    assert not (other.root / "data").exists()
    other.run("dvc", "pull")
    for name in ("source", "left", "right", "join"):
        assert (other.root / "data" / name).read_bytes() == (toy.root / "data" / name).read_bytes()
    said = other.run("dvc", "repro").stdout
    assert "Running stage" not in said and "up to date" in said
    assert other.lock() == toy.lock()

    # A reference from MLflow resolves where neither workspace nor cache has the bytes any more.
    md5 = dvc_md5(toy.root / "data" / "join")
    shutil.rmtree(other.root / ".dvc" / "cache")
    (other.root / "data" / "join").unlink()
    found = resolve(other.root, "data/join", md5, tmp_path / "fetched")
    assert found == tmp_path / "fetched" and found.read_bytes() == (toy.root / "data" / "join").read_bytes()
    with pytest.raises(StorageError, match="nor in DVC's cache or remote"):
        resolve(other.root, "data/join", "0" * 32, tmp_path / "nothing")
