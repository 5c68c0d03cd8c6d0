"""What is switched off by choice is skipped with a sentence, and leaves tables that the next stages read."""

from __future__ import annotations

from pathlib import Path

import pytest
from workspace import ROOT

from k2core.corpus.documents import document_schema
from k2core.llm.client import LLM
from k2core.recipe import Section, read_recipe, validate
from k2core.report import corpus, rewrites
from k2core.stage import Job, sections_of
from k2core.storage import read_table, write_table
from stages import questions, rephrase

RECIPE = read_recipe(ROOT / "recipes/micro.yaml")


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LLM, "open", lambda *_: pytest.fail("a model was asked for"))


def given(module, **changes: object) -> dict[str, Section]:
    """The stage's sections at the micro recipe; its own with `changes`."""
    content = RECIPE | {module.SECTION: RECIPE[module.SECTION] | changes}
    sections = sections_of(module.run, module.SECTION)
    return {name: validate(cls, content[key], key) for name, (key, cls) in sections.items()}


@pytest.fixture
def curated(tmp_path: Path) -> Path:
    import pyarrow as pa

    write_table(tmp_path / "curated/documents.parquet", [], document_schema(("split", pa.string())))
    return tmp_path / "curated"


@pytest.mark.parametrize("shares", [{}, {"plain": {"documents": 0, "per_document": 1, "perspectives": []}}])
def test_no_rewrites(curated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], shares: dict) -> None:
    out, job = tmp_path / "rephrased", Job("rephrase", tmp_path, None)
    sections = given(rephrase, rewrites=shares)
    figures = rephrase.run(**sections, curated=curated, styles=ROOT / "styles", out=out, job=job)
    said = capsys.readouterr().out
    assert said == "[rephrase] skipped: rephrase.rewrites asks for no document; the tables are empty\n"
    assert figures["rewrites"] == figures["accepted"] == 0
    assert read_table(out / "documents.parquet", ["text", "domain", "origin"]) == []
    assert "All 0 verdicts" in rewrites.render(read_table(out / "verdicts.parquet"), {}, frozenset())


def test_no_questions(curated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, job = tmp_path / "questions", Job("questions", tmp_path, None)
    sections = given(questions, articles=0, passages=0, problems=0)
    figures = questions.run(**sections, curated=curated, tasks=tmp_path, out=out, job=job)
    assert capsys.readouterr().out.startswith("[questions] skipped: questions.articles, passages and problems are 0")
    assert figures["pairs"] == 0
    tables = read_table(out / "documents.parquet", ["text"]), read_table(out / "rejected.parquet")
    assert tables == ([], [])
    shown = corpus.questions(corpus.Corpus(**dict.fromkeys(corpus.Corpus.__annotations__) | {"questions": tables}))
    assert shown["counts"] == (0, 0) and shown["accepted"] == []
