"""Contamination: every planted passage is found and shown, and phrases that all texts share are none."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2core.corpus.duplicates.decontamination import (
    COMMON,
    SHORTEST,
    EvaluationSet,
    Hit,
    Index,
    count_passages,
    find_contaminated,
    write_index,
)  # fmt: skip
from k2core.corpus.duplicates.passages import spill
from k2core.corpus.duplicates.shingles import simple_words
from k2core.evals.text_sets import text_sets
from k2core.gym.registry import text_environments
from k2core.storage import write_lines

WORDS = [f"w{i}" for i in range(5000)]


def words(seed: object, count: int) -> list[str]:
    return random.Random(str(seed)).choices(WORDS, k=count)


def text(seed: object, count: int) -> str:
    return " ".join(words(seed, count))


def planted(item: str, at: int, size: int = 200) -> str:
    # None of the items' words, which by chance would go on as the item does.
    around = [f"around{word}" for word in words(f"around/{item}", size)]
    return " ".join([*around[:at], item, *around[at:]])


def index_of(sets: list[EvaluationSet], ngram_words: int) -> Index:
    """Its files are mapped, so they can be read though their names are gone."""
    with tempfile.TemporaryDirectory() as folder:
        write_index(sets, ngram_words, Path(folder, "index"))
        return Index(Path(folder, "index"))


def within_corpus(documents: list[tuple[str, str]], index: Index) -> dict[str, Hit]:
    """As for held-out text of the same corpus."""
    return find_contaminated(documents, index, count_passages(documents, index)[1])


ITEMS = {f"{size}/{i}": text(f"{size}/{i}", size) for size in (8, 9, 12, 13, 14, 40, 200) for i in range(20)}
SET = EvaluationSet("exam", ITEMS)


def test_every_planted_item_is_found_with_its_passage() -> None:
    documents = [(name, planted(item, 17 * i % 200)) for i, (name, item) in enumerate(ITEMS.items())]
    documents += [(f"clean/{i}", text(f"clean/{i}", 300)) for i in range(200)]
    hits = find_contaminated(documents, index_of([SET], 13))
    assert {name: (hit.item, hit.passage, hit.share) for name, hit in hits.items()} == {
        name: (f"exam/{name}", item, 1.0) for name, item in ITEMS.items()
    }


@settings(max_examples=40, deadline=None)
@given(start=st.integers(0, 187), at=st.integers(0, 200), size=st.integers(1, 60))
def test_a_part_of_an_item_is_found_from_13_words_on(start: int, at: int, size: int) -> None:
    part = " ".join(ITEMS["200/3"].split()[start : start + size])
    hits = find_contaminated([("a", planted(part, at))], index_of([SET], 13))
    if len(part.split()) < 13:
        assert hits == {}
    else:
        assert (hits["a"].item, hits["a"].passage) == ("exam/200/3", part)
        assert hits["a"].share == pytest.approx(len(part.split()) / 200)


def test_case_punctuation_and_line_breaks_do_not_hide_an_item() -> None:
    item = "A train leaves Zürich at 9:40 and needs 56 minutes to Bern; when does it arrive, and how late is it then?"
    index = index_of([EvaluationSet("exam", {"trains": item})], 13)
    disguised = "Q12. " + item.upper().replace(" ", "\n> ").replace("Ü", "U") + " (2 points)"
    (hit,) = find_contaminated([("a", disguised)], index).values()
    assert hit.item == "exam/trains" and hit.passage.startswith("a train leaves") and hit.share == 1.0
    changed = item.replace("56", "57").replace("Bern", "Thun").replace("9:40", "8:10")
    assert find_contaminated([("a", changed)], index) == {}


def test_an_almost_whole_short_item_is_none() -> None:
    item = ITEMS["12/0"].split()
    index = index_of([SET], 13)
    for wrong in (item[:-1], item[1:], [*item[:5], "other", *item[6:]]):
        assert find_contaminated([("a", planted(" ".join(wrong), 9))], index) == {}
    assert find_contaminated([("a", " ".join(item[:-1]))], index) == {}  # it ends too early


def test_the_wording_that_items_share_is_no_evidence() -> None:
    wording = text("wording", 30)
    many = {str(i): f"{wording} {text(f'own/{i}', 20)}" for i in range(COMMON + 1)}
    documents = [("wording", planted(wording, 50)), ("item", planted(many["4"], 50))]
    hits = find_contaminated(documents, index_of([EvaluationSet("exam", many)], 13))
    assert set(hits) == {"item"} and hits["item"].item == "exam/4"
    few = dict(list(many.items())[:COMMON])
    assert set(find_contaminated(documents, index_of([EvaluationSet("exam", few)], 13))) == {
        "wording", "item",
    }  # fmt: skip


def test_what_many_documents_quote_counts_for_a_set_and_not_for_held_out_text() -> None:
    licence = text("licence", 60)
    heldout = f"{text('start', 80)} {licence} {text('end', 80)}"
    index = index_of([EvaluationSet("heldout", {"h": heldout})], 50)
    documents = [(str(i), planted(licence, i)) for i in range(COMMON + 1)]
    assert set(find_contaminated(documents, index)) == {name for name, _ in documents}
    assert within_corpus(documents, index) == {}
    assert len(within_corpus(documents[1:], index)) == COMMON
    copy = ("copy", planted(" ".join(heldout.split()[10:70]), 5))
    assert set(within_corpus([*documents, copy], index)) == {"copy"}


def test_an_index_does_not_depend_on_how_its_texts_are_cut(tmp_path: Path) -> None:
    common = text("common", 20)
    many = ITEMS | {f"also/{number}": f"{common} {text(number, number)}" for number in range(30)}
    names = random.Random(1).sample(sorted(many), len(many))
    for count in (1, 3):
        parts = [tmp_path / f"{count}-{part}" for part in range(count)]
        for number, part in enumerate(parts):
            spill(part, [(name, many[name]) for name in names[number::count]], 13)
        write_index([EvaluationSet("empty", {}), SET], 13, tmp_path / str(count), [("own", parts), ("none", [])])
    whole, cut = (sorted((tmp_path / name).iterdir()) for name in ("1", "3"))
    assert [path.name for path in whole] == [path.name for path in cut] and len(whole) == 7
    assert [path.read_bytes() for path in whole] == [path.read_bytes() for path in cut]
    index = Index(tmp_path / "3")
    assert index.searched["own"] == len(many) and index.searched["empty"] == index.searched["none"] == 0
    (hit,) = find_contaminated([("a", many["also/25"])], index).values()
    assert (hit.item, hit.passage) == ("own/also/25", " ".join(many["also/25"].split()[8:])), "the common part is none"


def test_passages_that_touch_are_two_and_the_longest_is_shown() -> None:
    both = f"{ITEMS['14/0']} {ITEMS['40/0']}"
    (hit,) = find_contaminated([("a", planted(both, 30))], index_of([SET], 13)).values()
    assert (hit.item, hit.passage) == ("exam/40/0", ITEMS["40/0"])


def test_items_that_are_too_short_are_counted() -> None:
    index = index_of([EvaluationSet("exam", {"a": "2 + 2", "b": "", "c": text("c", SHORTEST)})], 13)
    assert (index.searched["exam"], index.too_short["exam"]) == (1, 2)
    assert find_contaminated([("d", "what is 2 + 2 then")], index) == {}
    with pytest.raises(ValueError, match="say too little"):
        index_of([], 5)


def test_nothing_to_look_for_finds_nothing() -> None:
    assert find_contaminated([("a", text("a", 100)), ("b", "")], index_of([], 13)) == {}


@pytest.mark.parametrize("name", sorted(text_environments()))
def test_the_text_environments_items_are_too_short_to_look_for(name: str) -> None:
    """A new environment with longer questions fails here: then `k2core.evals.text_sets` must have its items."""
    environment = text_environments()[name]
    items = [environment.item(1, "heldout", index) for index in range(16)]
    assert all(len(simple_words(item.messages[-1]["content"])) <= SHORTEST for item in items)


def test_a_document_that_quotes_humaneval_is_found(tmp_path: Path) -> None:
    """Also where the quotation is worded as the problem is, and no code."""
    write_lines(tmp_path / "tasks.jsonl", [])
    sets = text_sets(tmp_path)
    functions = next(group for group in sets if group.name == "humaneval").texts
    index = index_of(sets, 13)
    assert index.searched["humaneval"] == len(functions) == 164
    quoting = ("quoting", f"A riddle. {functions['0']} And so on.")
    plain = ("plain", "def add(a, b):\n    return a + b\n" * 20 + text("plain", 300))
    (hit,) = find_contaminated([quoting, plain], index).values()
    assert hit.item == "humaneval/0"
