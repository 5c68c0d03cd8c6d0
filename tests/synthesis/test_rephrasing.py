"""Rephrasing: styles in files, the plan, chunks with the text so far as context, the stage with a scripted model."""

from __future__ import annotations

import inspect
import json
import pickle
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm
from workspace import ROOT

from k2core.corpus.documents import COLUMNS, document_schema
from k2core.corpus.workers import Corpus, map_shards
from k2core.llm.client import Answer, Refused, Request
from k2core.llm.config import LLMConfig
from k2core.llm.many import map_threads
from k2core.machine import Compute
from k2core.recipe import RecipeError
from k2core.stage import Job as StageJob
from k2core.stage import StageError
from k2core.storage import read_table
from k2core.synthesis.fidelity.gate import SCORES, GateLimits, judge
from k2core.synthesis.rephrasing import judging
from k2core.synthesis.rephrasing.rewriting import Draw, Job, Rewrite, Share, chunk, expected_tokens, rewrite_all
from k2core.synthesis.rephrasing.styles import Library, load_styles
from stages import rephrase

STYLES = ROOT / "styles"
LIBRARY = load_styles(STYLES)
COMPUTE = Compute(threads=1, seed=1, device="cpu", backend="auto", precision="fp32")
LLM_CONFIG = LLMConfig(
    base_url="embedded", model="m", api_key_variable="", context=512, timeout_s=9, max_attempts=1, max_wait_s=1,
    concurrency=1, expected_tokens_per_second=70,
)  # fmt: skip


LIMITS = GateLimits(
    numbers_kept=1, numbers_invented=0, names_kept=0.8, names_invented=0, words_invented=9, length_ratio=(0.5, 1.6),
    copied=0.8, language_score=0.3, similarity=0.6, support=0.2, finished=0, repeated=0.5, equations_kept=0,
    equations_invented=9, negations_changed=9, opposites=9, roles=-1, coverage=0.1,
)  # fmt: skip
LOOSE = GateLimits(
    numbers_kept=0, numbers_invented=9, names_kept=0, names_invented=9, words_invented=99, length_ratio=(0, 9),
    copied=1, language_score=0, similarity=-1, support=-1, finished=0, repeated=1, equations_kept=0,
    equations_invented=9, negations_changed=9, opposites=9, roles=-1, coverage=-1,
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
    "es/Nilo": (
        "El Nilo es un largo río de África que atraviesa 11 países hasta el Mediterráneo.",
        "The Nile is a long river of Africa that crosses 11 countries on its way to the Mediterranean.",
    ),
}


class Scripted:
    """Answers by `reply(request)`, in so many threads; keeps the requests."""

    def __init__(self, reply: Callable[[Request], Answer | Refused], threads: int = 1) -> None:
        self.reply, self.threads, self.requests = reply, threads, []

    def each(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return map_threads(function, items, self.threads, None)

    def answer_or_reason(self, request: Request) -> Answer | Refused:
        self.requests.append(request)
        return self.reply(request)

    def stop(self) -> None:
        pass


def plan(
    documents: list[dict[str, Any]], library: Library, shares: dict[str, Share], seed: int, chunk_tokens: int
) -> list[Job]:
    """The jobs of all documents, which are seen in two parts."""
    draw, half = Draw(library, shares, seed), len(documents) // 2
    draw.see(documents[half:])
    draw.see(documents[:half])
    draw.check()
    return draw.jobs(documents, chunk_tokens)


def share(documents: int | None, per_document: int = 1, perspectives: tuple[str, ...] = ()) -> Share:
    return Share(documents=documents, per_document=per_document, perspectives=list(perspectives))


def row(name: str, text: str, domain: str = "knowledge", split: str = "train", language: str = "en") -> dict[str, Any]:
    return {
        **dict.fromkeys(COLUMNS, "x"), "id": f"wikipedia/{name}", "text": text, "domain": domain, "split": split,
        "license": "CC-BY-SA-4.0", "attribution": name, "language": language,
    }  # fmt: skip


def rows() -> list[dict[str, Any]]:
    return [
        row("Ada", TEXTS["Ada"][0]),
        row("Nile", TEXTS["Nile"][0]),
        # Too long to be rewritten, but its words are known with small letters.
        row("Words", "flowing problem answer we the " * 30),
        row("Held", "The held-out text must never be rewritten at all.", split="heldout"),
        row("es/Nilo", TEXTS["es/Nilo"][0], split="foreign", language="es"),
        {**row("", "Problem: add 2 and 3 =\n2 + 3 = 5\nAnswer: 5", domain="math"), "id": "mathematics/1"},
    ]


def last(request: Request) -> str:
    return request.messages[-1]["content"]


def faithful(request: Request) -> Answer:
    text = next((rewrite for text, rewrite in TEXTS.values() if text in last(request)), "We add 2 and 3, so 2 + 3 = 5.")
    return Answer(text, "stop", 20)


@pytest.fixture(autouse=True)
def languages_asked_for(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """What the gate was told about each rewrite's language."""
    told: list[str | None] = []
    knows = "language" in inspect.signature(judge).parameters

    def spy(*arguments: Any, language: str | None) -> Any:
        told.append(language)
        return judge(*arguments, **({"language": language} if knows else {}))

    monkeypatch.setattr(judging, "judge", spy)
    return told


def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: Scripted,
    styles: Path = STYLES,
    block: int = 99,
    **changes: Any,
) -> dict[str, float]:
    """The stage over `rows`, in blocks of so many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    @contextmanager
    def opened(*arguments: Any) -> Iterator[Scripted]:
        yield model

    monkeypatch.setattr(rephrase.LLM, "open", opened)
    (tmp_path / "curated").mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows(), document_schema(("split", pa.string())))
    pq.write_table(table, tmp_path / "curated" / "documents.parquet", row_group_size=block)
    values = {
        "rewrites": {"encyclopedia": share(2), "plain": share(2), "learning_note": share(1)},
        "min_characters": 10, "max_characters": 400, "chunk_tokens": 256, "context_tokens": 256, "temperature": 0.3,
        "gate": {"knowledge": LIMITS, "math": LIMITS, "translation": LOOSE},
    }  # fmt: skip
    params = rephrase.Params(**{**values, **changes})
    return rephrase.run(
        params, LLM_CONFIG, COMPUTE, Corpus(workers=1), tmp_path / "curated", styles, tmp_path / "out",
        StageJob("r", tmp_path, None),
    )  # fmt: skip


def verdicts_of(tmp_path: Path) -> list[dict[str, Any]]:
    return read_table(tmp_path / "out" / "verdicts.parquet")


def documents_of(tmp_path: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in read_table(tmp_path / "out" / "documents.parquet")}


def test_accepted_rewrites_become_documents_and_every_verdict_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def reply(request: Request) -> Answer:
        if "encyclopedia" in last(request) and "Nile" in last(request):
            return Answer(TEXTS["Nile"][1].replace("11", "12"), "stop", 20)
        return faithful(request)

    model = Scripted(reply)
    figures = run(tmp_path, monkeypatch, model)
    verdicts = verdicts_of(tmp_path)
    assert {(row["source_id"], row["style"]): row["reason"] for row in verdicts} == {
        ("wikipedia/Ada", "encyclopedia"): "accepted",
        ("wikipedia/Nile", "encyclopedia"): "numbers_kept",
        ("wikipedia/Ada", "plain"): "duplicate",  # word for word what the other style gave
        ("wikipedia/Nile", "plain"): "accepted",
        ("mathematics/1", "learning_note"): "accepted",
    }
    assert {row["style"]: row["gate"] for row in verdicts}["learning_note"] == "math"
    assert all(set(SCORES) <= set(row) and row["accepted"] == (row["reason"] == "accepted") for row in verdicts)
    documents = documents_of(tmp_path)
    assert set(documents) == {
        "rephrase/encyclopedia/1/wikipedia/Ada", "rephrase/plain/1/wikipedia/Nile",
        "rephrase/learning_note/1/mathematics/1",
    }  # fmt: skip
    ada = documents["rephrase/encyclopedia/1/wikipedia/Ada"]
    assert ada["text"] == TEXTS["Ada"][1] and ada["source"] == "rephrase/encyclopedia"
    assert ada["origin"] == "wikipedia/Ada" and ada["language"] == "en"
    assert ada["license"] == "CC-BY-SA-4.0" and ada["attribution"] == "Ada; rephrased by a language model"
    assert figures["rewrites"] == 5 and figures["accepted"] == 3
    assert figures["rejected/numbers_kept"] == figures["rejected/duplicate"] == 1
    assert figures["accepted_share/encyclopedia"] == 0.5 and figures["generated_tokens"] == 100
    assert not any("held-out" in last(request) or "Nilo" in last(request) for request in model.requests)
    said = capsys.readouterr().out
    assert "5 rewrites of 3 documents in 3 styles: 5 requests, about " in said and " at 70 tokens/s" in said


def test_translations_draw_from_the_foreign_documents_and_end_in_english(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, languages_asked_for: list[str | None]
) -> None:
    model = Scripted(faithful)
    run(tmp_path, monkeypatch, model, rewrites={"translate": share(None), "plain": share(None)})
    translated = documents_of(tmp_path)["rephrase/translate/1/wikipedia/es/Nilo"]
    assert translated["language"] == "en" and translated["domain"] == "knowledge"
    assert translated["text"] == TEXTS["es/Nilo"][1] and translated["origin"] == "wikipedia/es/Nilo"
    assert translated["attribution"] == "es/Nilo; translated by a language model"
    assert [row["source_id"] for row in verdicts_of(tmp_path) if row["style"] == "translate"] == ["wikipedia/es/Nilo"]
    assert sorted(languages_asked_for, key=str) == [None, None, "en"]
    assert sum("Translate" in last(request) for request in model.requests) == 1


def test_rewrites_of_a_document_differ_in_seed_and_perspective_and_have_ids_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = [TEXTS["Nile"][1], TEXTS["Nile"][1].replace("at its end", "in the end"), TEXTS["Nile"][1]]
    rewrites = {"plain": share(2, 3, ("child", "historian"))}
    model = Scripted(lambda request: Answer(variants[request.seed - 1], "stop", 5))
    run(tmp_path, monkeypatch, model, rewrites=rewrites)
    nile = [row for row in verdicts_of(tmp_path) if row["source_id"] == "wikipedia/Nile"]
    assert [(row["number"], row["reason"]) for row in nile] == [(1, "accepted"), (2, "accepted"), (3, "duplicate")]
    assert set(documents_of(tmp_path)) == {"rephrase/plain/1/wikipedia/Nile", "rephrase/plain/2/wikipedia/Nile"}
    first, second, third = (row["perspective"] for row in nile)
    assert {first, second} == {"child", "historian"} and first == third
    asked = [request for request in model.requests if "Nile" in last(request)]
    assert [request.seed for request in asked] == [1, 2, 3]
    assert [request.messages[0] for request in asked] == [
        {"role": "system", "content": LIBRARY.perspectives[row["perspective"]].prompt} for row in nile
    ]
    again = Scripted(model.reply)
    run(tmp_path / "again", monkeypatch, again, rewrites={"plain": share(2, 2, ("child", "historian"))})
    assert len(again.requests) == 4 and all(request in model.requests for request in again.requests), (
        "fewer rewrites: the same requests"
    )


def test_a_refused_piece_sets_its_document_aside_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reply(request: Request) -> Answer | Refused:
        return Refused("status 400: too long") if "Nile" in last(request) else faithful(request)

    figures = run(tmp_path, monkeypatch, Scripted(reply), rewrites={"plain": share(2)})
    nile = next(row for row in verdicts_of(tmp_path) if row["source_id"] == "wikipedia/Nile")
    assert nile["reason"] == "refused: status 400: too long" and nile["rewrite"] == "" and not nile["accepted"]
    assert figures["rejected/refused"] == 1 and figures["accepted"] == 1
    assert figures["mean_similarity"] > 0.5, "a document without an answer has no similarity to count"
    assert set(documents_of(tmp_path)) == {"rephrase/plain/1/wikipedia/Ada"}


@pytest.mark.parametrize(
    ("reply", "counted"), [(Answer("", "stop", 0), "empty 5"), (Refused("status 413"), "refused 5")]
)
def test_nothing_accepted_is_an_error_that_leaves_the_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reply: Answer | Refused, counted: str
) -> None:
    with pytest.raises(StageError, match=f"none of 5 rewrites passed the gate .{counted}"):
        run(tmp_path, monkeypatch, Scripted(lambda request: reply))
    assert len(read_table(tmp_path / "verdicts.parquet")) == 5


def test_blocks_change_nothing_but_the_order_and_a_finished_one_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(name: str, block: int, model: Scripted) -> tuple[dict[str, float], list[str], dict[str, Any]]:
        figures = run(tmp_path / name, monkeypatch, model, block=block)
        verdicts = sorted(map(repr, verdicts_of(tmp_path / name)))
        return figures, verdicts, documents_of(tmp_path / name)

    figures, *tables = made("one", 99, Scripted(faithful))
    assert figures["accepted"]
    found, *rest = made("many", 1, Scripted(faithful))
    assert found == pytest.approx(figures) and rest == tables

    def dies_at_mathematics(request: Request) -> Answer:
        if "Problem" in last(request):
            raise KeyboardInterrupt
        return faithful(request)

    with pytest.raises(KeyboardInterrupt):
        made("killed", 1, Scripted(dies_at_mathematics))
    again = Scripted(faithful)
    found, *rest = made("killed", 1, again)
    assert found == pytest.approx(figures) and rest == tables
    assert len(again.requests) == 1, "the other blocks were finished"


def test_while_a_block_is_judged_the_next_one_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, judge_it = Event(), judging.judge

    def reply(request: Request) -> Answer:
        if "Problem" in last(request):
            asked.set()
        return faithful(request)

    def waits(*arguments: Any, **named: Any) -> Any:
        assert asked.wait(20), "the last block is asked when the first one is judged"
        return judge_it(*arguments, **named)

    monkeypatch.setattr(judging, "judge", waits)
    assert run(tmp_path, monkeypatch, Scripted(reply), block=1)["rewrites"] == 5
    said = capsys.readouterr().out
    assert "] 5 rewrites of 3 documents in 3 styles: 5 requests, about " in said
    assert "] block 1 of 3: 2 requests, about " in said and "] block 3 of 3: 1 requests, about " in said


def test_parts_of_a_block_change_nothing_but_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made(name: str) -> tuple[dict[str, float], list[str], dict[str, Any]]:
        figures = run(tmp_path / name, monkeypatch, Scripted(faithful))
        return figures, sorted(map(repr, verdicts_of(tmp_path / name))), documents_of(tmp_path / name)

    figures, *tables = made("whole")
    monkeypatch.setattr(judging, "PART", 2)
    monkeypatch.setattr(
        rephrase, "map_shards", lambda work, *rest: map_shards(pickle.loads(pickle.dumps(work)), *rest)
    )  # fmt: skip
    found, *rest = made("parts")
    assert len(list((tmp_path / "parts" / "judged").iterdir())) == 2
    assert found == pytest.approx(figures) and rest == tables


def test_a_judge_that_fails_stops_the_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, failed = Scripted(faithful), Event()

    def fails(*arguments: Any, **named: Any) -> Any:
        failed.set()
        raise StageError("no judge")

    def reply(request: Request) -> Answer:
        if "Problem" in last(request):
            assert failed.wait(20) and stopped.wait(20), "nobody said that it is over"
            raise CancelledError
        return faithful(request)

    stopped = Event()
    model.reply, model.stop = reply, stopped.set
    monkeypatch.setattr(judging, "judge", fails)
    with pytest.raises(StageError, match="no judge"):
        run(tmp_path, monkeypatch, model, block=1)


def test_the_words_of_a_large_corpus_are_those_of_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words: dict[str, set[str]] = {}
    for name, documents in (("all", 999), ("half", 3), ("none", 0)):
        monkeypatch.setattr(rephrase, "LEXICON", documents)
        run(tmp_path / name, monkeypatch, Scripted(faithful), gate={"knowledge": LOOSE, "math": LOOSE})
        words[name] = set(json.loads((tmp_path / name / "common.json").read_text())["train"])
    assert words["none"] == set() < words["half"] < words["all"]


def test_a_truncated_rewrite_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(request: Request) -> Answer:
        answer = faithful(request)
        return Answer(answer.text, "length" if "Nile" in last(request) else "stop", 9)

    assert run(tmp_path, monkeypatch, Scripted(reply))["rejected/truncated"] == 2


def test_a_style_without_limits_is_named_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Scripted(faithful)
    with pytest.raises(StageError, match=r"rephrase\.gate: no limits 'math', which the style learning_note"):
        run(tmp_path, monkeypatch, model, gate={"knowledge": LIMITS})
    assert not model.requests


def test_a_file_in_the_folder_is_a_new_style_or_perspective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    styles = tmp_path / "styles"
    shutil.copytree(STYLES, styles)
    (styles / "headline.yaml").write_text(
        "{domain: knowledge, documents: Nile, gate: short, prompt: 'Headline: {text}', examples: []}"
    )
    (styles / "perspectives" / "poet.yaml").write_text("prompt: You rhyme.")
    model = Scripted(lambda request: Answer("River reaches sea", "stop", 4))
    run(
        tmp_path, monkeypatch, model, styles, gate={"short": LOOSE}, rewrites={"headline": share(None, 1, ("poet",))}
    )  # fmt: skip
    assert [message["content"] for message in model.requests[0].messages] == [
        "You rhyme.", f"Headline: {TEXTS['Nile'][0]}"
    ]  # fmt: skip
    assert documents_of(tmp_path)["rephrase/headline/1/wikipedia/Nile"]["text"] == "River reaches sea"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.yaml", "{domain: knowledge", r"a\.yaml: not valid YAML"),
        ("a.yaml", "[1]", r"a\.yaml: expected a mapping"),
        ("a.yaml", "{domain: maths, documents: '', gate: g, prompt: '{text}', examples: []}", r"domain = 'maths'"),
        ("a.yaml", "{domain: math, documents: '(', gate: g, prompt: '{text}', examples: []}", "not a regular exp"),
        ("a.yaml", "{domain: math, documents: '', gate: g, prompt: 'Go.', examples: []}", "prompt = 'Go.'"),
        ("My style.yaml", "{}", "rename the file"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_style_is_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(RecipeError, match=message):
        load_styles(tmp_path)


def test_the_packaged_styles_serve_knowledge_mathematics_and_translation() -> None:
    styles = LIBRARY.styles
    assert len([style for style in styles.values() if style.domain == "knowledge" and style.split == "train"]) >= 5
    assert styles["learning_note"].domain == "math" and len(LIBRARY.perspectives) >= 4
    assert styles["translate"].language == "en" and styles["translate"].split == "foreign"
    for style in styles.values():
        assert style.prompt.count("{text}") == 1


def articles(count: int) -> list[dict[str, Any]]:
    return [row(str(i), "t" * 50) for i in range(count)]


def test_the_plan_is_a_function_of_seed_and_ids() -> None:
    documents, shares = articles(50), {"encyclopedia": share(5), "plain": share(8, 2, ("child", "teacher"))}
    jobs = plan(documents, LIBRARY, shares, seed=1, chunk_tokens=256)
    assert jobs == plan(documents[::-1], LIBRARY, shares, seed=1, chunk_tokens=256)
    assert jobs != plan(documents, LIBRARY, shares, seed=2, chunk_tokens=256)
    names = {style: {job.source_id for job in jobs if job.style == style} for style in ("encyclopedia", "plain")}
    assert len(jobs) == 5 + 16 and names["encyclopedia"] < names["plain"]
    assert len({job.perspective for job in jobs if job.style == "plain" and job.number == 1}) == 2
    assert len(plan(documents, LIBRARY, {"plain": share(None)}, 1, 256)) == 50


def test_unknown_names_and_too_few_documents_are_named() -> None:
    documents = articles(1)
    with pytest.raises(RecipeError, match=r"no style 'haiku' in .*styles; there are: dialogue, encyclopedia"):
        plan(documents, LIBRARY, {"haiku": share(1)}, 1, 256)
    with pytest.raises(RecipeError, match=r"no perspective 'cat' in .*perspectives; there are: child, historian"):
        plan(documents, LIBRARY, {"plain": share(1, 1, ("cat",))}, 1, 256)
    with pytest.raises(RecipeError, match=r"plain\.documents = 2: only 1 knowledge documents of split train fit"):
        plan(documents, LIBRARY, {"plain": share(2)}, 1, 256)
    with pytest.raises(RecipeError, match="only 0 knowledge documents of split foreign"):
        plan(documents, LIBRARY, {"translate": share(1)}, 1, 256)
    with pytest.raises(RecipeError, match="only 0 math documents"):  # no worked steps
        plan([row("m", "Problem: 2 + 3 =\nAnswer: 5", domain="math")], LIBRARY, {"learning_note": share(None)}, 1, 256)


def test_chunks_are_whole_sentences_of_the_text() -> None:
    text = " ".join(f"Sentence number {i} says something about the town." for i in range(30))
    chunks = chunk(text, tokens=64)
    assert "".join(chunks) == text and len(chunks) > 3
    assert all(len(piece.strip()) <= 256 and piece.strip().endswith("town.") for piece in chunks)
    assert chunk("Short\ntext.", tokens=64) == ("Short\ntext.",)


@given(
    st.lists(st.sampled_from(['He left. "No."', "Dr. Who (St.) came!", "a, b; c", "“Oui.”", "3.5 m", "\n", "\n\n"])),
    st.integers(1, 8),
)
def test_no_character_is_lost_between_chunks(parts: list[str], tokens: int) -> None:
    text = " ".join(parts)
    pieces = chunk(text, tokens)
    assert "".join(pieces) == text.strip()
    assert all(piece.strip() for piece in pieces) or not text.strip()


def test_a_long_document_is_rewritten_piece_by_piece_with_the_text_so_far() -> None:
    """Six pieces in two paragraphs: each request shows what came before, the stitched text has the paragraphs."""

    def reply(request: Request) -> Answer:
        return Answer(f"Sure, here it is:\n\n{last(request).split(chr(10))[-1].upper()}", "stop", 5)

    sentences = [
        f"The {word} sentence stands here." for word in ("first", "second", "third", "fourth", "fifth", "last")
    ]
    text = " ".join(sentences[:3]) + "\n\n" + " ".join(sentences[3:])
    long = Job("a", "plain", text, chunk(text, tokens=8))
    short = Job("b", "plain", "A short one.", ("A short one.",))
    assert len(long.chunks) == 6
    model = Scripted(reply)
    with tqdm(total=7, disable=True) as bar:
        rewrites = rewrite_all(model, [long, short], LIBRARY, temperature=0.3, seed=4, context_tokens=1000, bar=bar)
    assert [rewrite.text for rewrite in rewrites] == [text.upper(), "A SHORT ONE."]
    assert [rewrite.tokens for rewrite in rewrites] == [30, 5]
    assert len(model.requests) == 7
    for place, request in enumerate(model.requests[:6]):
        contents = [message["content"] for message in request.messages]
        assert [content.split("\n")[-1] for content in contents[::2]] == sentences[: place + 1]
        assert contents[1::2] == [sentence.upper() for sentence in sentences[:place]]
        assert [message["role"] for message in request.messages] == ["user", "assistant"] * place + ["user"]
        assert request.seed == 4 and request.temperature == 0.3

    model = Scripted(reply)
    rewrite_all(model, [long], LIBRARY, temperature=0.3, seed=4, context_tokens=20)  # a piece with its rewrite fits
    assert [message["content"].split("\n")[-1] for message in model.requests[5].messages[::2]] == sentences[4:]


def test_a_refused_piece_ends_its_document_alone() -> None:
    def reply(request: Request) -> Answer | Refused:
        return Refused("empty answer") if last(request).endswith("A3") else Answer(last(request)[-2:], "stop", 1)

    jobs = [Job(name, "plain", "", tuple(f"{name}{i} " for i in range(1, 7))) for name in "AB"]
    model = Scripted(reply)
    first, second = rewrite_all(model, jobs, LIBRARY, temperature=0.3, seed=4, context_tokens=100)
    assert first.refused == "empty answer" and first.text == "" and second.text == "B1 B2 B3 B4 B5 B6"
    assert len(model.requests) == 3 + 6


def test_a_slow_piece_holds_up_its_own_document_alone() -> None:
    further = Event()

    def reply(request: Request) -> Answer:
        if last(request).endswith("B3"):
            further.set()
        assert not last(request).endswith("A1") or further.wait(20), "the other document waits for this one's piece"
        return Answer(last(request)[-2:], "stop", 1)

    jobs = [Job(name, "plain", "", tuple(f"{name}{i} " for i in range(1, 4))) for name in "AB"]
    rewrites = rewrite_all(Scripted(reply, 2), jobs, LIBRARY, temperature=0.3, seed=4, context_tokens=100)
    assert [rewrite.text for rewrite in rewrites] == ["A1 A2 A3", "B1 B2 B3"]


def test_the_longest_documents_are_asked_for_first() -> None:
    jobs = [Job(name, "plain", "", tuple(f"{name} " for _ in range(count))) for name, count in (("A", 1), ("B", 3))]
    model = Scripted(lambda request: Answer(last(request)[-1:], "stop", 1))
    rewrites = rewrite_all(model, jobs, LIBRARY, temperature=0.3, seed=4, context_tokens=100)
    assert [rewrite.text for rewrite in rewrites] == ["A", "B B B"]
    assert [last(request)[-1:] for request in model.requests] == ["B", "B", "B", "A"]


def test_lines_go_on_in_lines() -> None:
    dialogue = Job("a", "dialogue", "", ("One. ", "Two. ", "Three."))
    assert Rewrite(dialogue, ["Q: 1?\nA: 1.", "Q: 2?\nA: 2.", "End."]).text == "Q: 1?\nA: 1.\nQ: 2?\nA: 2.\nEnd."


def test_the_forecast_counts_the_context_of_every_piece() -> None:
    job = Job("a", "plain", "x" * 400, ("x" * 200, "x" * 200))
    prompt, piece = -(-(len(LIBRARY.styles["plain"].prompt) - len("{text}") + 200) // 4), 50
    assert expected_tokens([job], LIBRARY, context_tokens=1000) == (3 * prompt + piece, 2 * piece)
    assert expected_tokens([job], LIBRARY, context_tokens=0) == (2 * prompt, 2 * piece)


def test_a_rewrite_has_room_for_its_digits() -> None:
    model = Scripted(lambda request: Answer("x", "stop", 1))
    jobs = [Job("a", "plain", "", ("w" * 100 + digits,)) for digits in ("", "1" * 50)]
    rewrite_all(model, jobs, LIBRARY, temperature=0, seed=0, context_tokens=0)
    assert [request.max_tokens for request in model.requests] == [50, 2 * (25 + 50)]
