"""recipes/web.yaml from a list of WARC files in a bucket to token shards, and what a whole crawl is planned to take."""

from __future__ import annotations

import gzip
import html
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_quality import COMPUTE, LLM_CONFIG, Judge
from test_readers import PARAGRAPHS, archive
from typer.testing import CliRunner
from workspace import ROOT

from benchmarks.command import CORES
from k2core.chat.tokenizer import Tokenizer
from k2core.corpus.documents import document_schema
from k2core.corpus.sources.builtin import package_docs
from k2core.corpus.workers import Corpus
from k2core.planning.corpus import PAGES, Crawl, Rates, app, plan_of, planned
from k2core.recipe import read_recipe
from k2core.stage import Job
from k2core.storage import read_table, write_table
from stages import curate, grade, ingest, tag, tokenize, train_tokenizer

RECIPE = ROOT / "recipes" / "web.yaml"
CRAWL = ROOT / "k2core" / "planning" / "cc-main-2024-51.yaml"
FILES, PER_FILE = 2, 40
ONE = Corpus(workers=1)


def page(text: str) -> bytes:
    body = "".join(f"<p>{html.escape(part)}</p>" for part in text.split("\n\n"))
    return f"<html><body><nav><a href='/'>Menu of the site</a></nav><article>{body}</article></body></html>".encode()


@pytest.fixture
def recipe(bucket: str) -> dict[str, Any]:
    """The recipe, its crawl in the bucket: two files of 40 pages, one of which is another again."""
    import boto3

    client, own = boto3.client("s3"), read_recipe(RECIPE)
    (entry,) = own["ingest"]["files"]
    entry["path"] = entry["path"].replace("s3://commoncrawl", bucket)
    config = package_docs.Source(limit=FILES * PER_FILE, max_characters=2000)
    texts = [document.text for document in package_docs.documents(config)][: FILES * PER_FILE]
    texts[0] = texts[-1] = "\n\n".join(PARAGRAPHS)
    names = [f"crawl-data/CC-MAIN-2024-51/segments/{number}/warc/a-{number}.warc.gz" for number in range(FILES)]
    for number, name in enumerate(names):
        first = number * PER_FILE
        made = [
            (f"https://p.example/{first + i}", page(text), "text/html")
            for i, text in enumerate(texts[first:][:PER_FILE])
        ]
        client.put_object(Bucket="checkpoints", Key=name, Body=archive(*made, first=first))
    listed = gzip.compress("\n".join(names).encode())
    client.put_object(Bucket="checkpoints", Key="crawl-data/CC-MAIN-2024-51/warc.paths.gz", Body=listed)
    for name in ("wikipedia", "python", "package_docs", "mathematics"):
        own["ingest"][name]["limit"] = 0
    own["curate"]["heldout_fraction"] = 0.03  # of 80 pages some; the recipe's share is for 2.6 billion
    own["ingest"]["wikipedia"]["translations"] = {}
    return own


def test_a_crawl_in_a_bucket_becomes_token_shards(
    recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, job = tmp_path / "data", Job("web", tmp_path / "work", None)
    monkeypatch.setattr(grade, "LLM", Judge())
    documents, attributes, quality, curated = (data / n for n in ("documents", "attributes", "quality", "curated"))
    figures = ingest.run(ingest.Params.model_validate(recipe["ingest"]), ONE, documents, job)
    assert figures["documents"] > 0.8 * FILES * PER_FILE
    rows = read_table(documents / "common_crawl.parquet", ["origin", "date", "language"])
    assert rows[0] == {"origin": "https://p.example/0", "date": "2025-12-05T10:11:12Z", "language": "und"}
    tag.run(tag.Params.model_validate(recipe["tag"]), ONE, documents, attributes, job)
    graded = grade.Params.model_validate(recipe["grade"])
    grade.run(graded, LLM_CONFIG, COMPUTE, ONE, documents, attributes, quality, job)
    (data / "tasks").mkdir()
    (data / "tasks" / "tasks.jsonl").write_text("")
    params = curate.Params.model_validate(recipe["curate"])
    kept = curate.run(params, ONE, documents, attributes, quality, data / "tasks", curated, job)
    assert {row["reason"] for row in read_table(curated / "rejected.parquet", ["reason"])} >= {"exact_duplicate"}, kept
    for name in ("rephrased", "questions", "recall"):  # no LLM writes here
        write_table(data / name / "documents.parquet", [], document_schema())
    small = {**recipe["train_tokenizer"], "vocab_size": 400}
    train_tokenizer.run(train_tokenizer.Params.model_validate(small), curated, data / "tokenizer", job)
    made = [data / name for name in ("rephrased", "questions", "recall", "tokenizer", "tokens")]
    tokenize.run(tokenize.Params.model_validate(recipe["tokenize"]), ONE, curated, *made, job)
    ids = np.fromfile(data / "tokens" / "train" / "web.bin", np.uint16)
    manifest = json.loads((data / "tokens" / "manifest.json").read_text())
    assert len(ids) == manifest["train"]["web"]["tokens"] > 10_000
    text = Tokenizer.load(data / "tokenizer").decode(ids.tolist())
    assert "Menu of the site" not in text
    assert all(
        row["text"] in text
        for row in read_table(curated / "documents.parquet", ["text", "split"])
        if row["split"] == "train"
    )


# ---- the plan


def speeds(**documents_a_second: float) -> list[dict[str, Any]]:
    """Results as the benchmarks write them, of documents of 1,000 bytes."""
    common = {"bytes_each": 1000.0, "machine": "m", "commit": "c"}
    return [{"name": f"corpus: {name}", "ours": rate, **common} for name, rate in documents_a_second.items()]


def test_a_plan_is_the_arithmetic_of_its_rates() -> None:
    crawl = Crawl(
        files=10, bytes=1e10, pages=1e6, texts=0.5, text_bytes=2000, kept=0.1, token_bytes=4, stored=0.5, attributes=100
    )
    rates = Rates(speeds(**{PAGES: 100.0, "tokenizing": 1000.0, "decontamination": 500.0, "read": 4000.0}))
    steps = {step.name: step for step in planned(crawl, 5, rates, 2**15)}
    assert steps["ingest"].seconds == 5e5 / 100 and steps["ingest"].hours(10) == pytest.approx(5e5 / 100 / 3600 / 10)
    assert steps["ingest"].written == 0.5 * 5e5 * 0.5 * 2000 == steps["tag"].read
    assert steps["tag"].seconds is None, "signatures were not measured"
    every = speeds(**{"signals, new": 500.0, "signals, code": 1.0, "signatures": 1000.0})
    tagging = planned(crawl, 5, Rates(every), 2**15)[1]
    assert tagging.seconds == pytest.approx(250_000 * 2000 * (1 / 500e3 + 1 / 1000e3)), "code is not of the web"
    shared, alone = steps["curate, decontamination"], steps["curate, selection"]
    assert shared.seconds == pytest.approx(250_000 * 2000 / (500 * 1000)) and shared.hours(1) == 10 * shared.hours(10)
    assert alone.seconds == pytest.approx(2 * 250_000 * 2000 / (4000 * 1000)) and alone.hours(10) == alone.hours(1)
    text = 250_000 * 2000 * 0.1
    assert steps["tokenize"].seconds == pytest.approx(text / 1e6)
    assert steps["tokenize"].written == pytest.approx(2 * text / 4) == 2 * crawl.tokens(5)
    assert planned(crawl, 5, rates, 2**17)[-1].written == pytest.approx(text)


def test_the_command_plans_the_recipe_and_refuses_one_without_a_crawl() -> None:
    page = (ROOT / "docs" / "corpus.md").read_text()
    assert plan_of(RECIPE, CRAWL, CORES) in page, "python -m benchmarks corpus writes it"
    told = CliRunner().invoke(app, [str(RECIPE), "--crawl", str(CRAWL), "--cores", "16", "--files", "100"])
    assert told.exit_code == 0 and "100 of 90,000 files, 100.0 GB" in told.stdout
    assert "hours in all, without grade, not measured" in told.stdout
    told = CliRunner().invoke(app, [str(ROOT / "recipes" / "laptop.yaml"), "--crawl", str(CRAWL), "--cores", "16"])
    assert told.exit_code == 1 and "no entry of kind warc" in told.stderr
    told = CliRunner().invoke(app, [str(RECIPE), "--crawl", str(RECIPE), "--cores", "16"])
    assert told.exit_code == 1 and "web.yaml.files: missing; it must be given" in told.stderr
