"""Planted credentials, searched in everything that a run writes."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from workspace import ROOT, Workspace

from k2core.recipe import mask
from k2core.storage import StorageError
from k2core.storage.s3 import Bucket

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTED1", "AWS_SECRET_ACCESS_KEY": "planted-aws-secret", "HF_TOKEN": "hf_planted_token",
    "OPENAI_API_KEY": "sk-planted-key", "MLFLOW_TRACKING_PASSWORD": "planted-mlflow-password",
    "AWS_ENDPOINT_URL": "http://me:planted-endpoint@127.0.0.1:9", "K2_ANYTHING": "planted-anything",
    "PREFECT_SERVER_API_AUTH_STRING": "k2:planted-prefect",
}  # fmt: skip
WORDS = [
    "AKIAPLANTED1", "planted-aws-secret", "hf_planted_token", "sk-planted-key", "planted-mlflow-password",
    "planted-endpoint", "planted-anything", "planted-prefect", "planted-uri",
]  # fmt: skip


def found(root: Path, *words: str) -> list[tuple[str, str]]:
    """Files below `root` that hold one of `words`, and which; the project's own, which are links, not included."""
    return [
        (str(path.relative_to(root)), word)
        for path in root.rglob("*") if path.is_file() and not path.resolve().is_relative_to(ROOT)
        for content in (path.read_bytes(),) for word in words if word.encode() in content
    ]  # fmt: skip


def test_what_is_planted_is_found(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\0" + ENVIRONMENT["AWS_ENDPOINT_URL"].encode())
    assert found(tmp_path, *WORDS) == [("a", "planted-endpoint")]


@pytest.mark.usefixtures("with_history")
@pytest.mark.parametrize("mlflow", ["here", "away"])
def test_a_run_writes_none_of_the_environment(toy: Workspace, mlflow: str) -> None:
    """If MLflow is away, its address goes through the recorder's faults and spool, the links and the logs as well."""
    toy.env |= ENVIRONMENT
    if mlflow == "away":
        toy.env |= {"MLFLOW_TRACKING_URI": "http://me:planted-uri@127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = toy.run("python", "-m", "flows.pipeline")
    output = done.stdout + done.stderr
    assert psutil.wait_procs(toy.processes("tracking.recorder"), timeout=180)[1] == []
    assert ("MLflow takes no records" in (toy.root / "logs" / "tracking.log").read_text()) == (mlflow == "away")
    assert len(list((toy.root / "logs").glob("tracking-*.jsonl"))) == (mlflow == "away")
    assert (toy.root / "mlflow.db").exists() == (mlflow == "here")
    assert [word for word in WORDS if word in output] == []
    assert found(toy.root, *WORDS) == []


@pytest.mark.parametrize("way", ["override", "file"])
def test_a_password_in_the_recipe_is_refused_and_written_nowhere(toy: Workspace, way: str) -> None:
    address = "http://me:planted-in-recipe@127.0.0.1:9/v1"
    if way == "override":
        done = toy.run("python", "-m", "flows.pipeline", "--set", f"join.fail={address}", check=False)
    else:
        toy.edit("params.yaml", 'fail: ""', f'fail: "{address}"')
        done = toy.run("dvc", "repro", check=False)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert "join.fail: the address holds a password" in output
    assert "planted" not in output
    left = [path for path, _ in found(toy.root, "planted-in-recipe")]
    assert left == ([] if way == "override" else ["params.yaml"])


def test_an_endpoint_with_a_password_is_masked_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (ENVIRONMENT | {"AWS_DEFAULT_REGION": "us-east-1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("k2core.storage.s3.ATTEMPTS", 1)
    with pytest.raises(StorageError) as caught:
        Bucket("s3://bucket/a").folders("state.json")
    assert "planted" not in mask(str(caught.value))  # as stage, job and recorder write it
