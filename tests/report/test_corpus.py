"""The corpus part shows what the stages' files say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from corpus_fixture import FUNNEL, ITEM, corpus, write_corpus

from k2core.report import quality
from k2core.report.card import read_card
from k2core.report.corpus import best_and_worst, funnel_table, questions, read_corpus, rejections
from k2core.report.mixture import read_manifest
from k2core.storage import StorageError


def marked(pieces: list) -> list[str]:
    return [piece.text for piece in pieces if piece.kind]


def test_every_reason_has_its_examples_with_what_they_repeat(tmp_path: Path) -> None:
    groups = {group["reason"]: group for group in rejections(corpus(tmp_path))}
    assert list(groups) == ["contaminated", "near_duplicate", "words"], "the most frequent first"
    (rule,) = groups["words"]["examples"]
    assert rule["other"] == [] and marked(rule["text"]) == []
    (near,) = groups["near_duplicate"]["examples"]
    assert marked(near["text"]) == ["ONE two, three four five six"]
    assert marked(near["other"]) == ["one two three four five six"]
    leak, held = sorted(groups["contaminated"]["examples"], key=lambda example: -example["row"]["score"])
    assert [text.lower() for text in marked(leak["text"])] == marked(leak["other"]) == [ITEM]
    assert "".join(piece.text for piece in leak["other"]).endswith(", thanks"), "the item, not the passage alone"
    assert marked(held["other"]) == ["one two three four five six"], "held-out documents are found by their id"


def test_the_passage_is_shown_where_the_item_is_not_known(tmp_path: Path) -> None:
    shown = replace(corpus(tmp_path), evaluation={})
    (group,) = [group for group in rejections(shown) if group["reason"] == "contaminated"]
    assert [ITEM] in [marked(example["other"]) for example in group["examples"]]


def test_the_card_is_read_back(tmp_path: Path) -> None:
    (source,) = corpus(tmp_path).card
    assert (source.name, source.domain, source.kind, source.documents, source.set_aside) == ("s", "web", "files", 17, 1)
    assert (source.licences, source.attribution, source.origin) == ("CC0 <x> (17)", "A. Writer (17)", "a bucket")
    assert source.faults == ("set aside as torn: 1, the first b.jsonl: ends early",)
    (tmp_path / "no.md").write_text("# Something else\n")
    with pytest.raises(StorageError, match="not a data card"):
        read_card(tmp_path / "no.md")


def test_the_funnel_says_what_each_step_removed() -> None:
    rows = funnel_table(FUNNEL)
    assert [row["removed"]["documents"] for row in rows] == [0, 3] and rows[1]["share"] == 0.7


def test_best_and_worst_are_apart_and_carry_their_parts(tmp_path: Path) -> None:
    domains = {domain["domain"]: domain["groups"] for domain in best_and_worst(corpus(tmp_path))}
    names = {group: [example["row"]["id"] for example in rows] for group, rows in domains["math"].items()}
    assert names == {"best": [f"s/math{i}" for i in (7, 6, 5, 4, 3)], "worst": [f"s/math{i}" for i in (0, 1, 2)]}
    parts = dict(domains["web"]["worst"][0]["parts"])
    assert parts == {"rules": 0.0, "classifier": 1.0, "embedding": 0.5, "llm": 0.0}
    assert "llm" not in dict(domains["math"]["best"][0]["parts"])


def test_correlations_are_of_rows_that_have_both(tmp_path: Path) -> None:
    made = corpus(tmp_path)
    rules, _, embedding, llm, _ = quality.correlations(list(made.grades.values()))
    assert rules[:2] == [1.0, -1.0] and rules[3:] == [1.0, 1.0]
    assert embedding[0] is None and llm[0] == 1.0
    assert len(quality.agreement(made).data) == 2
    assert quality.agreement(replace(made, grades={})) is None


def test_rates_show_in_the_histograms_where_there_are_any(tmp_path: Path) -> None:
    made = corpus(tmp_path)
    assert [sum(bars.y) for bars in quality.histograms(made).data] == [8, 9]
    rated = replace(made, documents=[{**row, "rate": 0.5} for row in made.documents])
    assert [sum(bars.y) for bars in quality.histograms(rated).data] == [8, 4, 9, 4.5]


def test_pairs_are_shown_with_reasons(tmp_path: Path) -> None:
    shown = questions(corpus(tmp_path))
    assert shown["counts"] == (3, 1) and shown["reasons"] == [("not in the source", 1)]
    assert shown["rejected"][0]["scores"] == [("score", 0.25)]


@pytest.mark.parametrize(
    ("lost", "says"),
    [("documents/CARD.md", "no data card"), ("curated/rejected.parquet", "no such table"),
     ("mixture/manifest.yaml", "not a readable manifest"), ("questions/rejected.parquet", "no such table")],
)  # fmt: skip
def test_a_missing_output_is_named(tmp_path: Path, lost: str, says: str) -> None:
    folders = write_corpus(tmp_path)
    (tmp_path / lost).unlink()
    with pytest.raises(StorageError, match=f"{Path(lost).name}: {says}"):
        read_corpus(**folders, phases=[])


def test_the_manifest_is_a_table(tmp_path: Path) -> None:
    mixture = corpus(tmp_path).mixture
    assert mixture.columns == ["epochs", "tokens", "weight", "upsampling q1", "upsampling q4"]
    assert mixture.phases["stable"]["web"]["upsampling q4"] == 1.5 and "weight" not in mixture.phases["stable"]["math"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("phases: {stable: {domains: {web: {tokens: 1}}}}\nwarnings: []\n", r"stable\.web has no tokens and epochs"),
        ("phases: {stable: {web: 1}}\nwarnings: []\n", "not phases, their domains"),
        ("- 1\n", "not phases, their domains"),
        ("", "not phases, their domains"),
        ("{", "not a readable manifest"),
    ],
)
def test_a_manifest_that_says_too_little_is_named(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "manifest.yaml").write_text(content)
    with pytest.raises(StorageError, match=rf"manifest\.yaml: .*{says}"):
        read_manifest(tmp_path / "manifest.yaml", [])
