"""Joint questions over linked pairs of documents: how the second one is found, what is asked, what the gate says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from workspace import ROOT

from k2core.corpus.blocks import blocks_of
from k2core.corpus.documents import COLUMNS, document_schema
from k2core.corpus.workers import Corpus
from k2core.llm.client import Answer, Request
from k2core.llm.config import LLMConfig
from k2core.machine import Compute
from k2core.recipe import RecipeError, load_section, validate
from k2core.stage import Job as StageJob
from k2core.storage import read_table
from k2core.synthesis.fidelity import facts
from k2core.synthesis.fidelity.gate import GateLimits, judge
from k2core.synthesis.fidelity.joint import needs_both
from k2core.synthesis.rephrasing.checks import fault
from k2core.synthesis.rephrasing.judging import _document
from k2core.synthesis.rephrasing.linked import MOST_CHARACTERS, Titles
from k2core.synthesis.rephrasing.rewriting import Draw, Job, Rewrite, Share
from k2core.synthesis.rephrasing.styles import Style, load_styles
from stages import rephrase

LIBRARY = load_styles(ROOT / "styles")
STYLE = LIBRARY.style("joint")
EXAMPLE = STYLE.examples[0]
LIMITS = load_section(GateLimits, ROOT / "recipes" / "laptop.yaml", "rephrase", "gate", "joint")
LOOSE = LIMITS.model_copy(update={
    "language_score": 0.0, "length_ratio": (0.0, 9.0), "repeated": 1.0, "numbers_invented": 9, "names_invented": 9,
    "words_invented": 99, "opposites": 9, "roles": -1.0, "similarity": -1.0, "support": -1.0,
})  # fmt: skip
COMMON = frozenset(("where", "into", "which", "that", "only", "longest", "begin", "river"))
LINKED = {"id": "wikipedia/Volga", "text": EXAMPLE.linked, "license": "L", "attribution": "V", "titles": "Danube Volga"}
JOB = Job("wikipedia/Danube", "joint", EXAMPLE.text, (EXAMPLE.text,), linked=LINKED)
WRONG = {
    "an invention": ("Caspian Sea", "Aral Sea"),
    "a number made up": ("The Danube flows", "The Danube flows 2850 km"),
    "a denial": ("rises in hills", "does not rise in hills"),
    "the first text alone": ("That river is the Volga, which ends in the Caspian Sea.", "That river is in Russia."),
    "the second text alone": (
        EXAMPLE.rewrite.splitlines()[3],
        "Answer: The Volga, the longest, rises in hills northwest of Moscow. That is in Europe.",
    ),
    "a stop in the middle": ("comes from the Black Forest.", "comes from the"),
    "no question": ("Question: ", ""),
}  # fmt: skip


def reason(rewrite: str) -> str:
    verdict = judge(JOB.source, STYLE.bare(rewrite), LIMITS, COMMON)
    return (fault(JOB, rewrite, STYLE, COMMON) or "accepted") if verdict.accepted else verdict.reason


def test_the_example_passes_the_recipes_gate() -> None:
    assert reason(EXAMPLE.rewrite) == "accepted"


@pytest.mark.parametrize("what", WRONG)
def test_a_damaged_example_does_not(what: str) -> None:
    right, wrong = WRONG[what]
    damaged = EXAMPLE.rewrite.replace(right, wrong)
    if what == "the second text alone":
        damaged = damaged.replace("the second-longest river", "another river")
    found = reason(damaged)
    assert damaged != EXAMPLE.rewrite and found != "accepted"
    assert (found == "one_text") == (what in ("the first text alone", "the second text alone", "no question")), found
    assert (found == "denial") == (what == "a denial")


def test_each_question_needs_something_of_either_text_beyond_its_title() -> None:
    first, second = "Ulm is a town where bells are cast in bronze.", "Velm has a harbour with nine old cranes."

    def needs(*answers: str) -> bool:
        rewrite = "".join(f"Question: What of Ulm and Velm?\nAnswer: {answer}\n" for answer in answers)
        return needs_both(first, second, rewrite, "Ulm Velm")

    both = "In Ulm bells are cast; the harbour of Velm has cranes."
    assert needs(both) and needs(both, both)
    assert needs("Where bronze is cast, no 9 of them stand."), "a number is a word of its own, however it is written"
    assert not needs(both, "Ulm casts bells of bronze, Velm does not.")
    assert not needs("Velm has a harbour, and Ulm is there.")
    assert not needs_both(first, second, both, "Ulm Velm"), "nothing is asked"


def document(title: str, text: str, split: str = "train", **more: str) -> dict[str, Any]:
    base = dict.fromkeys(COLUMNS, "x") | {"domain": "knowledge", "license": "CC-BY-SA-4.0", "language": "en"}
    said = {"id": f"wikipedia/{title}", "text": text, "attribution": f'"{title}", Wikipedia contributors'}
    return {**base, **said, "split": split, **more}


ROWS = [
    document("Ulm", "Ulm is a town on the Danube, far from the Danube Delta and from Kell Castle."),
    document("Velm", "Velm lies near ulm, Tarn and Bad Ulm-on-Sea, in the year 1066."),
    document("Tarn", "Tarn is short.", split="heldout"),
    document("Danube Delta", "The Danube Delta is a plain of 4,152 square kilometres with reeds on the Black Sea."),
    document("Black Sea", "A deep sea.", license="CC0-1.0"),
    document("Danube", "Is a river."),
    document("Kell Castle", "A castle.", split="foreign"),
    document("Ulm", "Another text about Ulm, which is never the second one."),
    {**document("x", "A page that names Ulm and Danube Delta."), "attribution": "its author", "id": "pages/1"},
]  # fmt: skip


def written(folder: Path, rows: list[dict[str, Any]], block: int) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "documents.parquet"
    pq.write_table(pa.Table.from_pylist(rows, document_schema(("split", pa.string()))), path, row_group_size=block)
    return path


@pytest.mark.parametrize("block", [1, 3, 99])
def test_the_second_document_has_the_longest_title_of_the_first_ones_text(tmp_path: Path, block: int) -> None:
    titles = Titles(blocks_of("curated", written(tmp_path, ROWS, block)), 10, 90)
    assert [titles.find(row) for row in ROWS] == [3, None, None, 4, None, None, None, None, 3]
    first, last = titles.partners([ROWS[0], ROWS[3]])
    assert (first["id"], first["text"]) == ("wikipedia/Danube Delta", ROWS[3]["text"])
    assert first["titles"] == "Ulm Danube Delta"
    assert (last["id"], last["license"]) == ("wikipedia/Black Sea", "CC0-1.0")
    with pytest.raises(ValueError, match="without a linked one"):
        titles.partners([ROWS[1]])
    assert titles.find(document("Long", "Danube " * (MOST_CHARACTERS // 7 + 1))) is None, "both are judged as one text"
    short = Titles(blocks_of("curated", tmp_path / "documents.parquet"), 10, 40)
    assert short.find(ROWS[0]) == 5, "a longer document is never the second one"


def test_a_title_is_found_however_it_is_written() -> None:
    from k2core.synthesis.rephrasing.linked import _spans

    spans = _spans("He left St. Louis for Côte d'Ivoire; AC/DC's 1984 tour of the United Arab\nEmirates was over.")
    assert {"St. Louis", "Côte d'Ivoire", "AC/DC", "1984 tour", "United Arab"} <= spans
    assert not {"tour", "left", "United Arab\nEmirates", "He", "United", "Arab"} & spans
    assert not {"White", "Battle", "Ägina"} & _spans("In Kitty White's house. The Battle of Ulm, on Ägina Élan.")
    assert {"White", "Danube", "Battle"} <= _spans("The Danube, a White. In Danube waters, the Battle of old.")


def test_without_titles_or_linked_documents_nothing_fits() -> None:
    share = Share(documents=None, per_document=1, perspectives=[])
    draw = Draw(LIBRARY, {"joint": share}, 1)
    draw.see(ROWS)
    with pytest.raises(RecipeError, match="only 0 knowledge documents"):
        draw.check()


def test_a_style_shows_two_documents_in_all_examples_or_none() -> None:
    about = {"domain": "web", "documents": "", "gate": "g", "prompt": "{text} {linked}", "examples": []}
    style = validate(Style, about, "a.yaml")
    assert style.joint and style.asked("{linked}", "{text}") == "{linked} {text}"
    assert style.headings("Question: Why?") == []
    with pytest.raises(RecipeError, match="each example has a text `linked`"):
        validate(Style, {**about, "examples": [{"text": "a", "rewrite": "b"}]}, "a.yaml")
    with pytest.raises(RecipeError, match="each example has a text `linked`"):
        validate(Style, {**about, "prompt": "{text}", "examples": [{"text": "a", "linked": "c", "rewrite": "b"}]}, "a")
    with pytest.raises(RecipeError, match="a translation has one document"):
        validate(Style, {**about, "language": "en"}, "a.yaml")


GOOD = (
    "Question: What lies on the river in Ulm's country, and what at its end?\nAnswer: Ulm, a town far from the castle, "
    "lies on it; at its end is a plain of 4,152 square kilometres with reeds."
)


class Scripted:
    """Answers each request about Ulm well, and others from one text alone; keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def stop(self) -> None:
        pass

    def each(self, function: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        return [function(item) for item in items]

    def answer_or_reason(self, request: Request) -> Answer:
        self.requests.append(request)
        about_ulm = "First text: Ulm" in request.messages[-1]["content"]
        return Answer(GOOD if about_ulm else "Question: What?\nAnswer: A plain.", "stop", 9)


@pytest.mark.parametrize("block", [1, 99])
def test_the_stage_asks_about_both_and_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    model = Scripted()

    @contextmanager
    def opened(*arguments: Any) -> Iterator[Scripted]:
        yield model

    monkeypatch.setattr(rephrase.LLM, "open", opened)
    written(tmp_path / "curated", ROWS, block)
    params = rephrase.Params(
        rewrites={"joint": Share(documents=None, per_document=1, perspectives=[])}, min_characters=10,
        max_characters=90, chunk_tokens=16, context_tokens=0, temperature=0.3, gate={"joint": LOOSE},
    )  # fmt: skip
    llm = LLMConfig(
        base_url="embedded", model="m", api_key_variable="", context=512, timeout_s=9, max_attempts=1, max_wait_s=1,
        concurrency=1, expected_tokens_per_second=70,
    )  # fmt: skip
    compute = Compute(threads=1, seed=1, device="cpu", backend="auto", precision="fp32")
    out = tmp_path / "out"
    job = StageJob("r", tmp_path, None)
    rephrase.run(params, llm, compute, Corpus(workers=1), tmp_path / "curated", ROOT / "styles", out, job)
    made = {row["source_id"]: row for row in read_table(out / "verdicts.parquet")}
    assert {name: (row["linked_id"], row["reason"]) for name, row in made.items()} == {
        "wikipedia/Ulm": ("wikipedia/Danube Delta", "accepted"),
        "wikipedia/Danube Delta": ("wikipedia/Black Sea", "one_text"),
        "pages/1": ("wikipedia/Danube Delta", "one_text"),
    }
    assert made["wikipedia/Ulm"]["source_text"] == f"{ROWS[0]['text']}\n\n{ROWS[3]['text']}"
    [document] = read_table(out / "documents.parquet")
    assert document["id"] == "rephrase/joint/1/wikipedia/Ulm" and document["origin"] == "wikipedia/Ulm"
    names = '"Ulm", Wikipedia contributors; "Danube Delta", Wikipedia contributors; rephrased by a language model'
    assert document["attribution"] == names and document["license"] == "CC-BY-SA-4.0"
    [asked] = [request for request in model.requests if "First text: Ulm" in request.messages[-1]["content"]]
    assert asked.messages[-1]["content"] == STYLE.asked(ROWS[0]["text"], ROWS[3]["text"])
    assert asked.messages[0]["content"] == STYLE.asked(EXAMPLE.text, EXAMPLE.linked)
    assert not any("Tarn is short" in request.messages[-1]["content"] for request in model.requests)


def test_different_licences_both_hold() -> None:
    made = _document(Rewrite(JOB, ["Q"]), document("Danube", EXAMPLE.text), LIBRARY)
    assert made["license"] == "CC-BY-SA-4.0 AND L" and facts.words(made["text"]) == ["q"]
