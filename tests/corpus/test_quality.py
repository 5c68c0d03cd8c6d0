"""The four parts of quality: planted good and bad texts are told apart, runs repeat to the byte, faults are named."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from peaks import peak

from k2core.corpus.documents import COLUMNS, document_schema
from k2core.corpus.duplicates.dedup import MinhashConfig
from k2core.corpus.quality import classifier
from k2core.corpus.quality.classifier import ClassifierConfig
from k2core.corpus.quality.combine import Weights, agreement, auc, combine, ranks
from k2core.corpus.quality.damage import KINDS, damage
from k2core.corpus.quality.judge import SCHEMA, Candidate, JudgeConfig, drawn, excerpts, grade_of, request
from k2core.corpus.quality.labels import LabelConfig, label
from k2core.corpus.quality.reading import Reading
from k2core.corpus.quality.rules import rules_score
from k2core.corpus.quality.similarity import Similarity, token_counts, token_ids, token_weights, vectors_of
from k2core.corpus.tagging import attribute_schema, tag
from k2core.corpus.workers import Corpus, Watch
from k2core.llm.client import Answer, Request
from k2core.llm.config import LLMConfig
from k2core.machine import Compute
from k2core.recipe import RecipeError
from k2core.stage import Job, StageError
from k2core.storage import read_tables, write_table
from stages import grade

MINHASH = MinhashConfig(ngram_words=5, buckets=14, hashes_per_bucket=8, seed=1)
CLASSIFIER = ClassifierConfig(characters=500, dimensions=8, word_ngrams=2, buckets=1000, epochs=20, learning_rate=0.3)
LABELS = LabelConfig(share=0.4, high_grade=4, low_grade=2, llm_repeats=5)
PARAMS = grade.Params(
    labels=LABELS, classifier=CLASSIFIER, embedding_characters=500,
    weights=Weights(rules=0.3, classifier=0.3, embedding=0.2, llm=0.2),
    judge=JudgeConfig(per_domain=12, probes_per_domain=4, characters=300),
)  # fmt: skip
LLM_CONFIG = LLMConfig(
    base_url="embedded", model="judge", api_key_variable="", context=2048, timeout_s=1, max_attempts=1, max_wait_s=1,
    concurrency=1, expected_tokens_per_second=60,
)  # fmt: skip
COMPUTE = Compute(threads=1, seed=1, device="cpu", backend="auto", precision="fp32")
ONE = Corpus(workers=1)
TOPICS = ("rivers", "bridges", "castles", "harbours", "markets", "forests", "mountains", "railways")


def good(random: Random) -> str:
    one, two = random.sample(TOPICS, 2)
    return (
        f"The history of the {one} is known from letters of the time. They were built for the {two}, and the people "
        f"of the valley lived with them for {random.randint(20, 900)} years, until the king had a new road built."
    )


def bad(random: Random) -> str:
    words = ["- click", "subscribe", "$$", "login", "now!!", "offer", "cookie", "| share", "tweet", "- buy", "cheap"]
    return "\n".join(" ".join(random.choices(words, k=4)) for _ in range(8))


def documents() -> list[dict[str, Any]]:
    random = Random(7)
    made = [(f"good{i}", good(random)) for i in range(40)] + [(f"bad{i}", bad(random)) for i in range(40)]
    row = dict.fromkeys(COLUMNS, "x")
    return [{**row, "id": f"a/{name}", "text": text, "domain": "web"} for name, text in made]


class Judge:
    """In place of the LLM: a grade by what the text looks like, or whatever `answer` says."""

    def __init__(self, answer: str | None = None) -> None:
        self.answer, self.asked = answer, 0

    @contextmanager
    def open(self, *arguments: Any) -> Any:
        yield self

    def complete_many(self, requests: Sequence[Request], bar: Any = None) -> list[Answer]:
        self.asked += len(requests)
        texts = [item.messages[-1]["content"] for item in requests]
        grades = [5 if text.startswith("The history") and text.endswith(".") else 1 for text in texts]
        return [Answer(self.answer or json.dumps({"grade": grade}), "stop", 5) for grade in grades]


def write_shards(root: Path, rows: list[dict[str, Any]], shards: int) -> None:
    tags = [tag(row, 500, MINHASH) for row in rows]
    size = -(-len(rows) // shards)
    for shard in range(shards):
        own, name = slice(shard * size, (shard + 1) * size), f"a-{shard:05}.parquet" if shards > 1 else "a.parquet"
        write_table(root / "documents" / name, rows[own], document_schema())
        write_table(root / "attributes" / name, tags[own], attribute_schema())


def run(
    root: Path, monkeypatch: pytest.MonkeyPatch, judge: Judge, params: grade.Params = PARAMS, corpus: Corpus = ONE,
    shards: int = 1,
) -> tuple[dict[str, float], list[dict[str, Any]]]:  # fmt: skip
    write_shards(root, documents(), shards)
    monkeypatch.setattr(grade, "LLM", judge)
    job = Job("grade", root / "scratch", None)
    figures = grade.run(params, LLM_CONFIG, COMPUTE, corpus, root / "documents", root / "attributes", root / "out", job)
    return figures, [row for _, rows in read_tables(root / "out") for row in rows]


def test_planted_good_and_bad_texts_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge()
    figures, rows = run(tmp_path, monkeypatch, judge)
    assert [row["id"] for row in rows] == [row["id"] for row in documents()]
    for part in ("rules", "classifier", "embedding", "quality"):
        area, _, _ = auc(*([row[part] for row in rows if kind in row["id"]] for kind in ("good", "bad")))
        assert area > 0.97, part
    judged = [row for row in rows if row["llm"] is not None]
    assert len(judged) == 12 == figures["judged"] and figures["judged_share"] == 12 / 80
    assert all(row["llm"] == (5 if "good" in row["id"] else 1) for row in judged)
    assert judge.asked == 12 + 3 * 4
    assert figures["classifier/auc_rules/web"] > 0.97 and figures["classifier/auc_llm"] > 0.97
    assert figures["correlation/rules-classifier"] > 0.5 and figures["agreement/classifier-llm"] == 1.0
    assert figures["llm/auc_low"] <= figures["llm/auc"] <= figures["llm/auc_high"]


def test_the_same_bytes_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (run(tmp_path / name, monkeypatch, Judge())[0] for name in ("one", "two"))
    assert first == second
    files = [(tmp_path / name / "out" / "a.parquet").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


def test_shards_and_workers_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = run(tmp_path / "1", monkeypatch, Judge())
    assert run(tmp_path / "3", monkeypatch, Judge(), shards=3) == one
    assert run(tmp_path / "8", monkeypatch, Judge(), shards=8) == one
    assert run(tmp_path / "two", monkeypatch, Judge(), corpus=Corpus(workers=2), shards=2) == one


def test_memory_is_that_of_a_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times as many shards of 10 documents of 50 kB: the texts that are new are not in memory."""
    monkeypatch.setattr("k2core.corpus.quality.grading._VECTORS", 10)
    run(tmp_path / "warm", monkeypatch, Judge())  # what is loaded once
    peaks = []
    for shards in (2, 8):
        root, rows = tmp_path / str(shards), documents()[-10 * shards :]
        write_shards(root, rows, shards)
        for part in range(shards):
            long = [{**row, "text": row["text"] * 250} for row in rows[10 * part : 10 * part + 10]]
            write_table(root / "documents" / f"a-{part:05}.parquet", long, document_schema())
        folders, job = (root / "documents", root / "attributes", root / "out"), Job("grade", root / "scratch", None)
        peaks.append(peak(partial(grade.run, PARAMS, LLM_CONFIG, COMPUTE, ONE, *folders, job)))
    new = sum(len(row["text"]) * 250 for row in documents()[:60])
    assert peaks[1] - peaks[0] < new / 8


def test_what_has_been_done_of_a_shard_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ended at the LLM goes on from there: what is read stays read."""
    whole = run(tmp_path / "whole", monkeypatch, Judge())
    with pytest.raises(StageError, match="holds a grade"):
        run(tmp_path / "cut", monkeypatch, Judge("Nice text!"), shards=2)

    def again(*arguments: Any) -> None:
        raise AssertionError("a shard is read again")

    monkeypatch.setattr(Reading, "__call__", again)
    assert run(tmp_path / "cut", monkeypatch, Judge(), shards=2) == whole


def test_a_document_that_kills_is_graded_as_an_empty_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killer = documents()[3]["id"]
    for _ in range(2):
        with Watch(tmp_path / "scratch" / "workers" / "read", "a.parquet") as watch:
            watch.at(killer)
        watch.died()
    _, rows = run(tmp_path, monkeypatch, Judge())
    places = {row["id"]: row["embedding"] for row in rows}
    _, others = run(tmp_path / "other", monkeypatch, Judge())
    assert len(rows) == len(others) and places[killer] < 0.5 < {row["id"]: row["embedding"] for row in others}[killer]


def test_a_judge_of_weight_zero_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = LABELS.model_copy(update={"llm_repeats": 0})
    weights = PARAMS.weights.model_copy(update={"llm": 0.0})
    params = PARAMS.model_copy(update={"labels": labels, "weights": weights})
    wise, fool = (
        run(tmp_path / name, monkeypatch, judge, params)[1]
        for name, judge in (("wise", Judge()), ("fool", Judge('{"grade": 3}')))
    )
    assert [row["quality"] for row in wise] == [row["quality"] for row in fool]


def test_a_judge_at_chance_is_reported_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures, _ = run(tmp_path, monkeypatch, Judge('{"grade": 3}'))
    assert figures["llm/auc"] == 0.5 and figures["llm/auc_low"] < 0.4 and figures["llm/auc_high"] > 0.6


def test_answers_without_a_grade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageError, match=r"none of 24 answers of judge holds a grade \(the first: 'Nice text!'\)"):
        run(tmp_path, monkeypatch, Judge("Nice text!"))
    assert [grade_of(text) for text in ('{"grade": 4}', '{"grade": 6}', '{"grade": true}', "[4]", '{"gr', "4")] == [
        4, None, None, None, None, None,
    ]  # fmt: skip


def test_other_rows_and_no_rows_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, monkeypatch, Judge())
    paths = tmp_path / "documents", tmp_path / "attributes", tmp_path / "again"
    job = Job("grade", tmp_path / "other", None)
    write_table(paths[0] / "a.parquet", documents()[1:], document_schema())
    with pytest.raises(StageError, match=r"a\.parquet: its rows are not those .*run tag again"):
        grade.run(PARAMS, LLM_CONFIG, COMPUTE, ONE, *paths, job)
    write_table(paths[0] / "a.parquet", [], document_schema())
    write_table(paths[1] / "a.parquet", [], attribute_schema())
    with pytest.raises(StageError, match="its tables have no documents; run ingest again"):
        grade.run(PARAMS, LLM_CONFIG, COMPUTE, ONE, *paths, job)


def test_the_classifier_is_the_same_twice_and_scores_only_what_it_has_not_seen(tmp_path: Path) -> None:
    random = Random(3)
    lines = [classifier.line_of(good(random) if i % 2 else bad(random), 500) for i in range(60)]
    folds_N = np.array([classifier.fold_of(f"x/{i}", 1) for i in range(60)])
    made = []

    def examples(fold: int) -> list[tuple[str, int]]:
        return [(lines[i], 1 if i % 2 else -1) for i in np.flatnonzero(folds_N == fold)]

    for name in ("one", "two"):
        junk = [np.full(8000, np.nan, dtype=np.float32) for _ in range(50)]
        del junk  # fastText's own memory must not have it
        classifier.train_halves(examples, CLASSIFIER, 1, tmp_path / name)
        models = classifier.load_halves(tmp_path / name)
        weights = [matrix.tobytes() for m in models for matrix in (m.get_input_matrix(), m.get_output_matrix())]
        made.append((classifier.score_all(models, lines, folds_N).tolist(), weights))
    assert made[0] == made[1]
    for fold in range(2):
        seen = (tmp_path / "one" / f"examples-{fold}.txt").read_text()
        assert not any(lines[i] in seen for i in np.flatnonzero(folds_N == fold))
    assert classifier.load_halves(tmp_path) == [] and np.isnan(classifier.score_all([], lines, folds_N)).all()
    assert classifier.fold_of("python/m.py#0", 1) == classifier.fold_of("python/m.py#7", 1)


def test_a_text_cannot_smuggle_a_label_in() -> None:
    assert "__label__" not in classifier.line_of("a __label__high b </s> __LABEL__low", 100)
    assert "</s>" not in classifier.line_of("a </s> b", 100).split()
    assert "\n" not in classifier.line_of("a\nb\r\nc", 100)


def test_a_diverging_classifier_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fasttext

    def diverge(*arguments: Any, **settings: Any) -> None:
        raise RuntimeError("Encountered NaN.")

    monkeypatch.setattr(fasttext, "train_supervised", diverge)
    with pytest.raises(RecipeError, match=r"'Encountered NaN\.'; lower learning_rate"):
        classifier.train([("a", 1)], CLASSIFIER, 1, tmp_path / "x.txt")


def test_labels_come_from_both_ends_and_the_llm_has_the_last_word() -> None:
    rules_N = np.arange(10) / 10
    labels_N = label(rules_N, {9: 0, 0: 3, 5: 4, 4: None}, LABELS.model_copy(update={"share": 0.2}))
    assert labels_N.tolist() == [0, -1, 0, 0, 0, 5, 0, 0, 1, -5]
    assert label(np.array([0.2, 1.0, 1.0, 1.0]), {}, LABELS).tolist() == [-1, 1, 1, 1], "most are alike"
    assert label(np.array([1.0, 1.0]), {}, LABELS).tolist() == [0, 0] and len(label(np.array([]), {}, LABELS)) == 0
    with pytest.raises(ValueError, match="low_grade must be below high_grade"):
        LabelConfig(share=0.1, high_grade=2, low_grade=2, llm_repeats=1)


def test_similar_texts_are_near(monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(5)
    texts = [good(random) for _ in range(20)] + [bad(random) for _ in range(20)] + [""]
    ids = [*token_ids(texts)]
    weights_V = token_weights(token_counts(np.concatenate(ids).astype(int)))
    vectors = vectors_of(ids, weights_V)
    space = Similarity([vectors])
    centroid = space.centroid([vectors[:20]])
    scores = space.score(vectors, centroid)
    assert min(scores[:20]) > max(scores[20:40]) and all(-1 <= value <= 1 for value in scores)
    chunks = [vectors[:7], vectors[7:30], vectors[30:]]
    assert np.array_equal(Similarity(chunks)._mean_E, vectors.mean(0)), "numpy's mean, bit for bit"
    monkeypatch.setattr("k2core.corpus.quality.similarity._SUMMED", 8)
    assert Similarity(chunks)._mean_E == pytest.approx(vectors.mean(0), abs=1e-6)


def test_damage_does_what_it_says() -> None:
    text = "The castle stands on a hill above the town. It was built in 1204 by the bishop, who wanted a tower."
    assert (
        sorted(damage(text, "shuffled", "a").split()) == sorted(text.split()) != damage(text, "shuffled", "a").split()
    )
    torn = damage(text, "truncated", "a")
    assert text.startswith(torn) and len(torn) < len(text) / 2 and torn[-1] not in ".!?"
    assert "cookies" in damage(text, "boilerplate", "a")
    assert all(damage(text, kind, "a") == damage(text, kind, "a") != text for kind in KINDS)


def test_the_sample_and_the_question() -> None:
    texts = [Candidate(f"a/{i}", "x" * 500, i) for i in range(50)]
    config = JudgeConfig(per_domain=10, probes_per_domain=3, characters=100)
    chosen = drawn(texts, config, 1)
    items = excerpts("web", chosen, config)
    assert len(items) == 10 + 3 * 3 and [item.damage for item in items].count("shuffled") == 3
    assert {item.id for item in items if item.damage} < {item.id for item in items if not item.damage}
    assert all(len(item.text) == 100 for item in items if not item.damage)
    assert chosen == drawn([*drawn(texts[:20], config, 1), *drawn(texts[20:], config, 1)], config, 1), "of samples"
    assert chosen == drawn(texts, config, 1) != drawn(texts, config, 2)
    asked = request("a text", 1)
    assert asked.schema == SCHEMA and asked.messages[-1]["content"] == "a text" and asked.temperature == 0


def test_ranks_quality_and_agreement() -> None:
    nan = float("nan")

    def arrays(values: dict[str, list[float]]) -> dict[str, np.ndarray]:
        return {name: np.array(row) for name, row in values.items()}

    assert np.array_equal(ranks(np.array([3.0, nan, 1.0, 3.0, 2.0])), [0.75, nan, 0.125, 0.75, 0.375], equal_nan=True)
    assert np.isnan(ranks(np.array([nan]))).all()
    weights = Weights(rules=1, classifier=1, embedding=0, llm=2)
    places = {"rules": [0.2, 0.8], "classifier": [0.4, nan], "embedding": [0.9, 0.9], "llm": [nan, 0.2]}
    assert combine(arrays(places), weights).tolist() == [0.3, 0.4]
    places = {"rules": [0.1, 0.9], "classifier": [0.2, 0.8], "embedding": [0.9, 0.1], "llm": [nan, nan]}
    found = agreement(arrays(places))
    assert found["correlation/rules-classifier"] == pytest.approx(1) and found["agreement/rules-classifier"] == 1
    assert found["correlation/rules-embedding"] == pytest.approx(-1) and found["agreement/rules-embedding"] == 0
    assert "correlation/rules-llm" not in found
    assert auc([2.0, 3.0], [1.0, 1.0])[0] == 1 and auc([1.0, 2.0], [1.0, 2.0])[0] == 0.5
    assert auc([], [1.0]) == (0.5, 0, 1)


def test_rules_prefer_the_better_text() -> None:
    def score(text: str, domain: str = "knowledge") -> float:
        return rules_score(domain, tag({"id": "a", "text": text, "domain": domain}, 500, MINHASH))

    assert score(good(Random(1))) > score("- x\n- x\n- x\n- x $$ ## $$ ##\n" * 5) + 0.2
    assert score('"""Adds."""\n# sums\ndef f(a, b):\n    return a + b\n', "code") > score("x = f(a, b)\n", "code")
    assert score("Half of 12 is:\n12 / 2 = 6", "math") > score("Half of 12 is:\n12 / 2 = 5", "math")
