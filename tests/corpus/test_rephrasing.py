"""Rephrasing: the plan, chunks with the text so far as context, and the stage with a scripted model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from k2core.corpus.documents import COLUMNS, document_schema
from k2core.corpus.fidelity import SCORES, GateLimits
from k2core.corpus.rephrasing import Job, chunk, load_styles, plan, rewrite_all
from k2core.llm.client import Answer, Request
from k2core.llm.config import LLMConfig
from k2core.recipe import Compute, RecipeError
from k2core.stage import Job as StageJob
from k2core.stage import StageError
from k2core.storage import read_table, write_table
from stages import rephrase

LLM_CONFIG = LLMConfig(
    base_url="embedded", model="m", api_key_variable="", context=512, timeout_s=9, max_attempts=1, max_wait_s=1,
    concurrency=1, expected_tokens_per_second=70,
)  # fmt: skip
LIMITS = GateLimits(
    numbers_kept=1, numbers_invented=0, names_kept=0.8, names_invented=0, length_ratio=(0.5, 1.6), copied=0.8,
    language_score=0.3, similarity=0.6, support=0.2, finished=0, repeated=0.5, equations_kept=0, equations_invented=9,
    negations_changed=9, opposites=9, roles=-1, coverage=0.1,
)  # fmt: skip
TEXTS = {
    "Ada": (
        "Ada Lovelace was an English mathematician who wrote about the Analytical Engine in 1843.",
        "The English mathematician Ada Lovelace published her thoughts on the Analytical Engine in 1843.",
    ),
    "Nile": (
        "The Nile is a long river in Africa that flows through 11 countries to the Mediterranean.",
        "Flowing through 11 countries, the African river Nile reaches the Mediterranean at its end.",
    ),
}


class Scripted:
    """Answers by `reply(request)`; keeps the requests of each round."""

    def __init__(self, reply: Any) -> None:
        self.reply, self.rounds = reply, []

    def complete_many(self, requests: Sequence[Request], bar: Any = None) -> list[Answer]:
        self.rounds.append(list(requests))
        return [self.reply(request) for request in requests]


def rows() -> list[dict[str, Any]]:
    base = dict.fromkeys(COLUMNS, "x")
    knowledge = [
        {**base, "id": f"wikipedia/{name}", "text": text, "domain": "knowledge", "license": "CC-BY-SA-4.0",
         "attribution": name, "split": "train"}
        for name, (text, _) in TEXTS.items()
    ]  # fmt: skip
    heldout = {
        **knowledge[0],
        "id": "wikipedia/Held",
        "text": "The held-out text must never be rewritten at all.",
        "split": "heldout",
    }
    math = {**base, "id": "mathematics/1", "domain": "math", "split": "train",
            "text": "Problem: add 2 and 3 =\n2 + 3 = 5\nAnswer: 5"}  # fmt: skip
    # Too long to be rewritten, but its words are known with small letters.
    words = {**knowledge[0], "id": "wikipedia/Words", "text": "flowing problem answer we the " * 30}
    return [*knowledge, words, heldout, math]


def last(request: Request) -> str:
    return request.messages[-1]["content"]


def faithful(request: Request) -> Answer:
    text = next((rewrite for text, rewrite in TEXTS.values() if text in last(request)), "We add 2 and 3, so 2 + 3 = 5.")
    return Answer(text, "stop", 20)


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Scripted, **changes: Any) -> dict[str, float]:
    import pyarrow as pa

    @contextmanager
    def opened(*arguments: Any) -> Iterator[Scripted]:
        yield model

    monkeypatch.setattr(rephrase.LLM, "open", opened)
    write_table(tmp_path / "curated" / "documents.parquet", rows(), document_schema(("split", pa.string())))
    values = {
        "rewrites": {"encyclopedia": 2, "plain": 2, "learning_note": 1}, "min_characters": 10, "max_characters": 400,
        "chunk_tokens": 256, "context_tokens": 256, "temperature": 0.3, "gate": {"knowledge": LIMITS, "math": LIMITS},
    }  # fmt: skip
    params = rephrase.Params(**{**values, **changes})
    compute = Compute(threads=1, seed=1)
    return rephrase.run(
        params, LLM_CONFIG, compute, tmp_path / "curated", tmp_path / "out", StageJob("r", tmp_path, None)
    )


def test_accepted_rewrites_become_documents_and_every_verdict_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reply(request: Request) -> Answer:
        if "encyclopedia" in last(request) and "Nile" in last(request):
            return Answer(TEXTS["Nile"][1].replace("11", "12"), "stop", 20)
        return faithful(request)

    model = Scripted(reply)
    figures = run(tmp_path, monkeypatch, model)
    verdicts = read_table(tmp_path / "out" / "verdicts.parquet")
    assert {(row["source_id"], row["style"]): row["reason"] for row in verdicts} == {
        ("wikipedia/Ada", "encyclopedia"): "accepted",
        ("wikipedia/Nile", "encyclopedia"): "numbers_kept",
        ("wikipedia/Ada", "plain"): "accepted",
        ("wikipedia/Nile", "plain"): "accepted",
        ("mathematics/1", "learning_note"): "accepted",
    }
    assert all(set(SCORES) <= set(row) and row["accepted"] == (row["reason"] == "accepted") for row in verdicts)
    documents = {row["id"]: row for row in read_table(tmp_path / "out" / "documents.parquet")}
    assert set(documents) == {
        "rephrase/encyclopedia/wikipedia/Ada", "rephrase/plain/wikipedia/Ada", "rephrase/plain/wikipedia/Nile",
        "rephrase/learning_note/mathematics/1",
    }  # fmt: skip
    ada = documents["rephrase/plain/wikipedia/Ada"]
    assert ada["text"] == TEXTS["Ada"][1] and ada["source"] == "rephrase/plain" and ada["origin"] == "wikipedia/Ada"
    assert ada["license"] == "CC-BY-SA-4.0" and ada["attribution"] == "Ada; rephrased by a language model"
    assert figures["rewrites"] == 5 and figures["accepted"] == 4 and figures["rejected/numbers_kept"] == 1
    assert figures["accepted_share/encyclopedia"] == 0.5 and figures["generated_tokens"] == 100
    assert not any("held-out" in last(request) for requests in model.rounds for request in requests)


def test_nothing_accepted_is_an_error_that_leaves_the_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageError, match=r"none of 5 rewrites passed the gate .empty 5"):
        run(tmp_path, monkeypatch, Scripted(lambda request: Answer("", "stop", 0)))
    assert len(read_table(tmp_path / "verdicts.parquet")) == 5


def test_a_truncated_rewrite_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(request: Request) -> Answer:
        answer = faithful(request)
        return Answer(answer.text, "length" if "Nile" in last(request) else "stop", 9)

    assert run(tmp_path, monkeypatch, Scripted(reply))["rejected/truncated"] == 2


def test_a_domain_without_limits_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageError, match="no limits for the domain math"):
        run(tmp_path, monkeypatch, Scripted(faithful), gate={"knowledge": LIMITS})


def test_the_plan_is_a_function_of_seed_and_ids() -> None:
    documents = [{"id": f"w/{i}", "text": "t" * 50, "domain": "knowledge"} for i in range(50)]
    jobs = plan(documents, {"encyclopedia": 5, "plain": 8}, seed=1, chunk_tokens=256)
    assert jobs == plan(documents[::-1], {"encyclopedia": 5, "plain": 8}, seed=1, chunk_tokens=256)
    assert jobs != plan(documents, {"encyclopedia": 5, "plain": 8}, seed=2, chunk_tokens=256)
    names = {style: {job.source_id for job in jobs if job.style == style} for style in ("encyclopedia", "plain")}
    assert len(jobs) == 13 and names["encyclopedia"] < names["plain"]


def test_unknown_styles_and_too_few_documents_are_named() -> None:
    documents = [{"id": "w/1", "text": "t", "domain": "knowledge"}]
    with pytest.raises(RecipeError, match=r"no style 'haiku'; styles\.yaml has encyclopedia, plain, learning_note"):
        plan(documents, {"haiku": 1}, 1, 256)
    with pytest.raises(RecipeError, match="plain = 2: only 1 knowledge documents fit"):
        plan(documents, {"plain": 2}, 1, 256)
    with pytest.raises(RecipeError, match="only 0 math documents"):  # no worked steps
        plan([{"id": "m/1", "text": "Problem: 2 + 3 =\nAnswer: 5", "domain": "math"}], {"learning_note": 1}, 1, 256)


def test_chunks_are_whole_sentences_of_the_text() -> None:
    text = " ".join(f"Sentence number {i} says something about the town." for i in range(30))
    chunks = chunk(text, tokens=64)
    assert " ".join(chunks) == text and len(chunks) > 3
    assert all(len(piece) <= 256 and piece.endswith("town.") for piece in chunks)
    assert chunk("Short\ntext.", tokens=64) == ("Short\ntext.",)


def test_a_long_document_is_rewritten_piece_by_piece_with_the_text_so_far() -> None:
    def reply(request: Request) -> Answer:
        return Answer(f"Sure, here it is:\n\n<{last(request)[-2:]}>", "stop", 5)

    jobs = [Job("a", "plain", "", ("A1", "A2", "A3")), Job("b", "plain", "", ("B1",))]
    model = Scripted(reply)
    rewrites = rewrite_all(model, jobs, temperature=0.3, seed=4, context_tokens=100)
    assert [rewrite.text for rewrite in rewrites] == ["<A1> <A2> <A3>", "<B1>"]
    assert [rewrite.tokens for rewrite in rewrites] == [15, 5]
    assert [len(requests) for requests in model.rounds] == [2, 1, 1]
    third = model.rounds[2][0]
    contents = [message["content"] for message in third.messages]
    assert [content[-2:] for content in contents[::2]] == ["A1", "A2", "A3"] and contents[1::2] == ["<A1>", "<A2>"]
    assert [message["role"] for message in third.messages] == ["user", "assistant", "user", "assistant", "user"]
    assert third.seed == 4 and third.temperature == 0.3

    model = Scripted(reply)
    rewrite_all(model, jobs, temperature=0.3, seed=4, context_tokens=2)  # room for one piece and its rewrite
    assert [message["content"][-2:] for message in model.rounds[2][0].messages[::2]] == ["A2", "A3"]


def test_styles_for_both_domains() -> None:
    styles = load_styles()
    domains = [style.domain for style in styles.values()]
    assert domains.count("knowledge") >= 2 and styles["learning_note"].domain == "math"
    for style in styles.values():
        assert style.prompt.count("{text}") == 1
