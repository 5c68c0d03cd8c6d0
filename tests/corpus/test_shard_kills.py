"""Ten SIGKILLs at random places of a sharded run, from tagging to token shards, each followed by another run."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
from test_curation import MINHASH, ONE, corpus, tasks_in
from test_curation import PARAMS as CURATE
from test_quality import COMPUTE, LLM_CONFIG, Judge
from test_quality import PARAMS as GRADE

from k2core.corpus.documents import document_schema
from k2core.corpus.workers import Watch
from k2core.evals import compressors
from k2core.stage import Job, Metrics
from k2core.storage import publish, write_json, write_table
from stages import curate, grade, tag, tokenize, train_tokenizer

KILLS, PLACES = 10, 60
"""Kills, and the places (a document, a file that appears) of a run among which each is drawn."""


def stages(root: Path) -> dict[str, Callable[[Path, Job], Metrics]]:
    """The stages in their order; each writes to the folder of its name."""
    documents, rephrased = root / "documents", root / "made"
    tagged, graded, curated, tokenizer = (root / name for name in ("tag", "grade", "curate", "train_tokenizer"))
    return {
        "tag": lambda out, job: tag.run(
            tag.Params(language_characters=500, minhash=MINHASH), ONE, documents, out, job
        ),
        "grade": lambda out, job: grade.run(GRADE, LLM_CONFIG, COMPUTE, ONE, documents, tagged, out, job),
        "curate": lambda out, job: curate.run(
            CURATE, ONE, documents, tagged, graded, root / "tasks", out, job
        ),
        "train_tokenizer": lambda out, job: train_tokenizer.run(
            train_tokenizer.Params(vocab_size=300, characters_per_domain=2000), curated, out, job
        ),
        "tokenize": lambda out, job: tokenize.run(
            tokenize.Params(max_heldout_tokens=500, yardstick_bytes=100), ONE, curated, *[rephrased] * 3, tokenizer,
            out, job,
        ),
    }  # fmt: skip


def prepared(root: Path) -> Path:
    for part in range(9):
        write_table(root / f"documents/a-{part:05}.parquet", corpus()[5 * part : 5 * part + 5], document_schema())
    write_table(root / "made/documents.parquet", [], document_schema())
    tasks_in(root)
    return root


def run(root: Path) -> None:
    """What is missing of the chain, as `dvc repro` and `k2core.stage.execute` do it."""
    for name, stage in stages(root).items():
        if not (root / name).exists():
            (root / "now").write_text(name)
            with publish(root / name) as out:
                figures = stage(out, Job(name, root / "work" / name, None))
            write_json(root / f"{name}.json", figures)


def outputs(root: Path) -> dict[str, bytes]:
    files = [path for name in stages(root) for path in [*(root / name).rglob("*"), root / f"{name}.json"]]
    return {str(path.relative_to(root)): path.read_bytes() for path in files if path.is_file()}


def killed_at(root: Path, place: int) -> int:
    """Run in a process that kills itself at a place; how it ended."""
    child = os.fork()
    if child == 0:
        try:
            _kill_at(place)
            run(root)
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def _kill_at(place: int) -> None:
    left = [place]
    at, replace = Watch.at, os.replace

    def step() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(self: Watch, id: str) -> None:
        at(self, id)
        step()

    def replaced(*arguments: Any) -> None:
        step()
        replace(*arguments)
        step()

    Watch.at, os.replace = watched, replaced  # type: ignore[method-assign]


def test_ten_random_kills_change_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setattr(grade, "LLM", Judge())
    monkeypatch.setattr(compressors, "yardsticks", lambda *arguments: {})
    run(prepared(tmp_path / "whole"))
    root, random, hit = prepared(tmp_path / "killed"), Random(21), []
    for _ in range(KILLS):
        assert killed_at(root, random.randint(1, PLACES)) == signal.SIGKILL
        hit.append((root / "now").read_text())
    assert len(set(hit)) >= 3, f"the kills are not spread over the chain: {hit}"
    run(root)
    assert outputs(root) == outputs(tmp_path / "whole")
