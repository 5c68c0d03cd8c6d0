"""Folders in a bucket, against a real HTTP endpoint (moto's server)."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest

from k2core.storage import StorageError, s3
from k2core.storage.s3 import Bucket


def folder(root: Path, name: str, **files: bytes) -> Path:
    (root / name).mkdir(parents=True)
    for file, content in files.items():
        (root / name / file).write_bytes(content)
    return root / name


def keys() -> list[str]:
    return sorted(item["Key"] for item in boto3.client("s3").list_objects_v2(Bucket="checkpoints").get("Contents", []))


def test_a_folder_goes_there_and_back(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "PART", 5 * 2**20)  # the smallest part that S3 takes: the large file goes up in three
    large = bytes(range(256)) * (13 * 4096)
    made = folder(tmp_path, "step-1", weights=large, state=b"{}")
    place = Bucket(f"{bucket}/runs/one")
    assert place.folders("state") == []
    place.upload(made, last="state")
    assert keys() == ["runs/one/step-1/state", "runs/one/step-1/weights"]
    assert place.folders("state") == ["step-1"]
    place.download("step-1", tmp_path / "back")
    assert {file.name: file.read_bytes() for file in (tmp_path / "back").iterdir()} == {
        "weights": large,
        "state": b"{}",
    }
    place.remove("step-1")
    assert keys() == [] and place.folders("state") == []


def test_the_last_file_is_the_last_and_what_is_there_is_not_sent_again(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that breaks off is never taken for whole, and resumes where it was."""
    made, place, sent = folder(tmp_path, "step-1", a=b"aa", b=b"bb", z=b"zz"), Bucket(bucket), []
    client = place._client()
    real = client.upload_file

    def upload(file: str, *arguments, **named) -> None:
        sent.append(Path(file).name)
        if sent == ["b", "z"]:
            raise boto3.exceptions.S3UploadFailedError("the line broke")
        real(file, *arguments, **named)

    client.upload_file = upload
    monkeypatch.setattr(place, "_client", lambda: client)
    with pytest.raises(StorageError, match="s3://checkpoints: the line broke"):
        place.upload(made, last="a")
    assert place.folders("a") == [] and keys() == ["step-1/b"]
    place.upload(made, last="a")
    assert sent == ["b", "z", "z", "a"] and place.folders("a") == ["step-1"]


def test_a_torn_object_is_recognised(bucket: str, tmp_path: Path) -> None:
    place = Bucket(bucket)
    place.upload(folder(tmp_path, "step-1", a=b"aa", z=b"zz"), last="z")
    client = boto3.client("s3")
    metadata = client.head_object(Bucket="checkpoints", Key="step-1/a")["Metadata"]
    client.put_object(Bucket="checkpoints", Key="step-1/a", Body=b"ab", Metadata=metadata)
    with pytest.raises(StorageError, match="s3://checkpoints/step-1/a is torn"):
        place.download("step-1", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_faults_are_one_sentence(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = folder(tmp_path, "step-1", a=b"aa")
    with pytest.raises(StorageError, match=r"s3://nowhere/x: .*NoSuchBucket"):
        Bucket("s3://nowhere/x").folders("a")
    with pytest.raises(StorageError, match="not an address like s3://bucket/prefix"):
        Bucket("/tmp/x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(s3, "ATTEMPTS", 1)
    with pytest.raises(StorageError, match="Could not connect to the endpoint URL") as caught:
        Bucket(bucket).upload(made, last="a")
    assert "\n" not in str(caught.value)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageError, match="Unable to locate credentials"):
        Bucket(bucket).upload(made, last="a")


def test_only_names_that_are_written_are_read(bucket: str, tmp_path: Path) -> None:
    """Anybody who may write there could put a name that leads out of the folder."""
    place, client = Bucket(f"{bucket}/runs"), boto3.client("s3")
    place.upload(folder(tmp_path, "step-1", weights=b"w", state=b"{}"), last="state")
    for key in ("../state", "./state", "/state", "..\\x/state", "-x/state", "a b/state"):
        client.put_object(Bucket="checkpoints", Key=f"runs/{key}", Body=b"{}")
    for key in ("..", ".", "", "../state", "sub/weights", "../../outside", "a b"):
        client.put_object(Bucket="checkpoints", Key=f"runs/step-1/{key}", Body=b"foreign")
    assert place.folders("state") == ["step-1"]
    place.download("step-1", tmp_path / "in" / "back")
    assert {file.name for file in (tmp_path / "in" / "back").iterdir()} == {"weights", "state"}
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["back"]
