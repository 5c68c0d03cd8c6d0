"""One document both ways, the sources, and the stages behind an artifact."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from k2core.lineage.__main__ import app
from k2core.lineage.chain import Chain
from k2core.lineage.document import story
from k2core.lineage.sources import read_sources
from k2core.storage import StorageError, read_table


def told(chain: Chain, document: str) -> str:
    return "\n".join(story(chain, document))


def rows(root: Path, table: str) -> dict[str, dict]:
    return {row["id"]: row for row in read_table(root / "data" / table)}


def line(text: str, label: str, told: str) -> bool:
    """Whether a line of a story tells this of `label`."""
    return bool(re.search(rf"^  (.+, )?{re.escape(label)}(, \S+)* {{2,}}{re.escape(told)}", text, re.MULTILINE))


def test_a_removed_document_says_why(made: Path, sft: Chain) -> None:
    short = told(sft, "pages/short")
    assert "curate  removed, words: 3, the rule for web says at least 10" in short
    assert "not in data/tokens" in short and "seen" not in short
    rejected = rows(made, "curated/rejected.parquet")
    twin = {"pages/copy", "pages/7"} & set(rejected)
    assert len(twin) == 1
    [removed], [kept] = twin, {"pages/copy", "pages/7"} - twin
    assert f"removed, exact_duplicate: its text is that of {kept}" in told(sft, removed)
    assert f"stands for its duplicates: {removed}" in told(sft, kept)


def test_a_document_leads_back_to_its_file(made: Path, sft: Chain) -> None:
    text = told(sft, "pages/11")
    row = rows(made, "documents/pages.parquet")["pages/11"]
    for part in (row["origin"], "CC-BY-4.0, its author", "data/documents/pages.parquet, row 11", '"Page 11 '):
        assert part in text, part
    assert row["origin"].endswith("own/pages.jsonl#12"), "rows of a file count from 1"


def test_a_rewrite_leads_back_to_its_source_and_the_source_to_it(made: Path, sft: Chain) -> None:
    accepted = sorted(rows(made, "rephrased/documents.parquet"))
    verdicts = read_table(made / "data/rephrased/verdicts.parquet")
    for rewrite in (name for name in accepted if "/plain/" in name):
        source = rewrite.removeprefix("rephrase/plain/1/")
        back, forward = told(sft, rewrite), told(sft, source)
        assert f"made of  {source}" in back and "rephrase, style plain" in back
        assert line(forward, "rephrase", f"{rewrite}: kept") and line(forward, "made of it", f"{rewrite}: ")
    refused = next(row["source_id"] for row in verdicts if not row["accepted"])
    assert f"rephrase/plain/1/{refused}: removed by the gate, copied 0.95" in told(sft, refused)
    assert "removed by the gate, copied 0.95" in told(sft, f"rephrase/plain/1/{refused}")
    [question] = rows(made, "questions/rejected.parquet")
    assert "questions  removed, duplicate" in told(sft, question) and "not in data/tokens" in told(sft, question)


def test_a_rewrite_of_two_documents_is_found_by_either(made: Path, sft: Chain) -> None:
    [both] = [row for row in read_table(made / "data/rephrased/verdicts.parquet") if row["linked_id"]]
    id = f"rephrase/joint/1/{both['source_id']}"
    back = told(sft, id)
    for source in (both["source_id"], both["linked_id"]):
        forward = told(sft, source)
        assert line(back, "made of", source) and first_line_of(made, source) in back
        assert line(forward, "rephrase", f"{id}: kept") and line(forward, "made of it", f"{id}: ")
    alone = {row["source_id"] for row in read_table(made / "data/rephrased/verdicts.parquet")} - {both["source_id"]}
    assert id not in told(sft, min(alone - {both["linked_id"]}))


def first_line_of(made: Path, id: str) -> str:
    [text] = [row["text"] for table in ("pages", "sums") for row in rows(made, f"documents/{table}.parquet").values()
              if row["id"] == id]  # fmt: skip
    return text.splitlines()[0][:60]


def test_a_held_out_document_is_measured_on_and_never_trained_on(made: Path, sft: Chain) -> None:
    kept = rows(made, "curated/documents.parquet")
    heldout = [name for name, row in kept.items() if row["split"] == "heldout"]
    texts = [told(sft, name) for name in heldout]
    measured = [text for text in texts if "not trained on; bits per byte are measured on it" in text]
    assert 0 < len(measured) < len(heldout), "some are beyond max_heldout_tokens"
    assert all(line(text, "evaluate@base", "bits per byte are measured on it") == (text in measured) for text in texts)
    assert not any("seen" in text for text in texts)


def test_post_training_reads_no_document(made: Path, sft: Chain) -> None:
    kept = rows(made, "curated/documents.parquet")
    text = told(sft, next(name for name, row in kept.items() if row["split"] == "train"))
    assert line(text, "sft", "not read: no document goes into data/trajectories")
    assert line(text, "evaluate@base", "not read: only held-out documents are")


def test_a_trajectory_made_of_documents_would_be_said(made: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made, tmp_path / "copy")
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    lock["stages"]["trajectories"]["deps"] += lock["stages"]["tag"]["deps"]
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))
    assert "perhaps read, through data/trajectories" in told(Chain.behind(root, "models/sft"), "pages/11")


def test_text_that_fine_tuning_replays_is_said_and_is_no_phase(made: Path, tmp_path: Path) -> None:
    root = shutil.copytree(made, tmp_path / "copy")
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    sft, stable = lock["stages"]["sft"], lock["stages"]["pretrain@stable"]
    sft["deps"] += [entry for entry in stable["deps"] if entry["path"] == "data/tokens"]
    shared = {key: stable["params"]["params.yaml"][key] for key in ("optimizer", "compute")}
    sft["params"]["params.yaml"] |= {"sft": {"steps": 1}, **shared}
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))
    assert line(told(Chain.behind(root, "models/sft"), "pages/11"), "sft", "perhaps read, through data/tokens")


def test_only_what_is_behind_the_artifact_is_told(made: Path) -> None:
    text = told(Chain.behind(made, "models/stable"), "pages/11")
    assert "stable" in text and not any(word in text for word in ("decay", "anneal", "evaluate", "sft"))
    text = told(Chain.behind(made, "data/curated"), "pages/11")
    assert "curate" in text and "tokenize" not in text and "rephrase" not in text


def test_ids_are_completed_and_unknown_ones_answered_with_the_nearest(sft: Chain) -> None:
    assert told(sft, "pages/sho").startswith("pages/short\n")
    with pytest.raises(StorageError, match=r"pages/x8: no document .* has this id; the nearest ids: pages/"):
        told(sft, "pages/x8")
    with pytest.raises(StorageError, match=r"pages/sh0rt: no document.*the nearest ids: pages/short"):
        told(sft, "pages/sh0rt")
    with pytest.raises(StorageError, match=r"sums/: 60 ids begin so, e\.g\. sums/0, sums/1, sums/10"):
        told(sft, "sums/")


def test_sources_count_what_the_tables_hold(made: Path, sft: Chain) -> None:
    pages, sums = read_sources(sft)
    kept, rejected = rows(made, "curated/documents.parquet"), rows(made, "curated/rejected.parquet")
    own = [row for row in kept.values() if row["source"] == "pages"]
    assert (pages.card.name, pages.card.kind, pages.card.documents) == ("pages", "jsonl", 92)
    assert pages.splits.total() == len(own) and pages.kept_characters == sum(len(row["text"]) for row in own)
    assert pages.removed == {"words": 1, "exact_duplicate": 1} and len(rejected) == 2
    assert pages.rewrites + sums.rewrites == 12 + 2, "the one of two documents counts for both sources"
    assert pages.accepted + sums.accepted == 6 + 2
    assert pages.questions + sums.questions == 11
    text = "\n".join(pages.lines())
    assert str(made / "own" / "pages.jsonl") in text and "CC-BY-4.0 (92)" in text
    with pytest.raises(StorageError, match=r"data/tasks: no source of documents is behind it"):
        read_sources(Chain.behind(made, "data/tasks"))


def run(root: Path, monkeypatch: pytest.MonkeyPatch, *words: str):
    monkeypatch.chdir(root)
    return CliRunner().invoke(app, list(words))


def test_the_stages_stand_in_order_one_a_line(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = run(made, monkeypatch, "models/sft", "--no-mlflow").stdout.splitlines()
    stages = [line.split()[0] for line in lines[1:-1]]
    lock = yaml.safe_load((made / "dvc.lock").read_text())["stages"]
    assert set(stages) == set(lock) - {"evaluate@base"}
    makers = {out["path"]: name for name, stage in lock.items() for out in stage["outs"]}
    for name in stages:
        for dep in lock[name]["deps"]:
            if dep["path"] in makers:
                assert stages.index(makers[dep["path"]]) < stages.index(name)
    digest = next(out["md5"] for out in lock["tokenize"]["outs"])
    assert digest[:7] in next(line for line in lines if line.startswith("tokenize "))


def test_figures_that_count_stand_beside_the_stage(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = shutil.copytree(made, tmp_path / "copy")
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    lock["stages"]["tokenize"]["outs"].append({"path": "metrics/tokenize.json", "md5": "0"})
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))
    (root / "metrics").mkdir()
    figures = {"tokens/train/web": 1200.0, "tokens/train/math": 34.0, "tokens/heldout/web": 5.0, "documents/train": 9.0}
    (root / "metrics" / "tokenize.json").write_text(json.dumps(figures))
    assert "1,234 tokens to train on, 5 held out" in run(root, monkeypatch, "data/tokens", "--no-mlflow").stdout


def test_inputs_made_anew_since_are_said(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = shutil.copytree(made, tmp_path / "copy")
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    lock["stages"]["curate"]["outs"][0]["md5"] = "feedfacefeedface"
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))
    shown = run(root, monkeypatch, "models/stable", "--no-mlflow")
    assert "tokenize read another data/curated" in shown.stdout and shown.exit_code == 0
    for question in (["--documents"], ["--sources"], ["--document", "pages/11"]):
        refused = run(root, monkeypatch, "models/stable", *question)
        assert refused.exit_code == 1 and refused.stdout == ""
        assert "read another data/curated" in refused.stderr and "feedfac" in refused.stderr


def test_faults_are_a_sentence(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = run(made, monkeypatch, "models/none")
    assert unknown.exit_code == 1 and "models/none: no stage in dvc.lock made it; the nearest of what" in unknown.stderr
    assert unknown.stderr.count(", ") == 2 and "models/" in unknown.stderr.partition("was made: ")[2]
    nothing = run(tmp_path, monkeypatch, "models/rl")
    assert nothing.exit_code == 1 and "none yet (`dvc repro`)" in nothing.stderr
    both = run(made, monkeypatch, "models/sft", "--sources", "--documents")
    assert both.exit_code == 2 and "ask one at a time" in both.stderr


def test_the_command_starts_fast_and_without_heavy_imports() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "k2core.lineage", "--help"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {line.rpartition("|")[2].strip() for line in listed.stderr.splitlines()}
    assert "ID" in listed.stdout and not loaded & {"torch", "mlflow", "pyarrow", "numpy", "rich.console"}
