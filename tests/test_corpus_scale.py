"""The growth benchmark: what it plants is known, and what it measures of a small corpus is right."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from benchmarks.corpus_scale import measure, page
from benchmarks.multiplied import FEWEST_WORDS, Multiplied, found
from benchmarks.pages import rewrite

COUNT = 400
WORDS = "the of and to in that is was for with river town house bridge stone north water mill valley road"


def rows() -> list[dict[str, Any]]:
    texts = []
    for seed in range(40):
        rng = random.Random(seed)
        sentences = [" ".join(rng.choices(WORDS.split(), k=12)).capitalize() + "." for _ in range(10)]
        texts.append({"text": " ".join(sentences), "domain": "knowledge"})
    return [*texts, {"text": "too short", "domain": "web"}]


CORPUS = Multiplied(rows())


def shingles(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


def test_documents_are_what_their_kinds_say() -> None:
    kinds = [CORPUS.kind(number) for number in range(COUNT)]
    assert 0.02 < kinds.count("exact") / COUNT < 0.09 and 0.06 < kinds.count("near") / COUNT < 0.15
    for number, kind in enumerate(kinds):
        text, root = CORPUS.text(number), CORPUS.root(number)
        first = CORPUS.text(root)
        assert len(text.split()) >= FEWEST_WORDS and kinds[root] == "new" and root <= number
        if kind == "exact":
            assert text != first and text.split() == first.split()
        if kind == "near":
            common, either = shingles(text) & shingles(first), shingles(text) | shingles(first)
            assert 0.85 < len(common) / len(either) < 0.97
    new = [shingles(CORPUS.text(number)) for number in range(COUNT) if kinds[number] == "new"]
    assert max(len(a & b) / len(a | b) for i, a in enumerate(new) for b in new[:i]) < 0.3


def test_recall_and_precision_count_what_went() -> None:
    copies = [number for number in range(COUNT) if CORPUS.root(number) != number]
    everything = set(range(COUNT))
    right = [(number, CORPUS.root(number)) for number in copies]
    assert found(iter(right), everything, CORPUS) == (1.0, 1.0, len(copies))
    recall, precision, _ = found(iter([*right[1:], (copies[0], copies[0] - 1)]), everything, CORPUS)
    other = CORPUS.root(copies[0] - 1) == CORPUS.root(copies[0])
    assert not other and recall == precision == (len(copies) - 1) / len(copies)


def test_a_small_corpus_is_measured(tmp_path: Path) -> None:
    point = measure(CORPUS, COUNT, 150, tmp_path)
    assert point["shards"] == 3 and point["by_rule"] < COUNT / 4
    assert point["recall"] > 0.95 and point["precision"] == 1.0 and point["duplicates"] > 30
    for step in ("tag", "curate", "search"):
        measured = point["steps"][step]
        assert measured["seconds"] > 0 and 50 < measured["peak_mib"] < 2000 and measured["grown_mib"] >= 0
    assert json.loads(json.dumps(point)) == point
    target = tmp_path / "page.md"
    target.write_text("<!-- corpus-scale:begin -->\n<!-- corpus-scale:end -->\n")
    rewrite(target, "corpus-scale", page([point]))
    assert "| 400 | 3 |" in target.read_text() and f"{point['recall']:.4f}" in target.read_text()
