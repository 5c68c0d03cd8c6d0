"""Repeated paragraphs: cut out of all but the best document, and nothing else is touched."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from k2core.corpus.duplicates import paragraphs, repeated
from k2core.corpus.duplicates.paragraphs import ParagraphConfig

CONFIG = ParagraphConfig(domains=["web"], min_characters=20, max_share=0.5)
NOTICE = "All rights are reserved by those who reserved them."
BODY = "\n\n".join(f"Paragraph {i} says something that is said nowhere else at all." for i in range(4))


class Found(NamedTuple):
    text: str
    share: float
    first: str
    goes: bool
    of: str


def find_repeats(ranked: list[tuple[str, str]], config: ParagraphConfig) -> dict[str, Found]:
    """id → what of a document is left, and whose paragraphs it repeats; the better of two documents comes first."""
    with tempfile.TemporaryDirectory() as name:
        folder, order = Path(name), np.arange(len(ranked))
        repeated.spill(folder, ((place, text) for place, (_, text) in enumerate(ranked)), config.min_characters)
        repeated.find_repeats([folder], [0, len(ranked)], order, np.ones(len(ranked), bool), config.max_share, folder)
        cuts = repeated.read_cuts(folder, 0)
    found = {}
    for number in np.unique(cuts["document"]).tolist():
        own = cuts[cuts["document"] == number]
        left = paragraphs.without(ranked[number][1], own["place"].tolist())
        of = ranked[own["of"][0]][0]
        found[ranked[number][0]] = Found(left.text, left.share, left.first, bool(own["goes"][0]), of)
    return found


def test_a_paragraph_stays_in_the_first_document_alone() -> None:
    own = BODY.replace("Paragraph", "Section")
    found = find_repeats([("a", f"{BODY}\n\n{NOTICE}"), ("b", f"{own}\n \n{NOTICE}\n\nEnd.")], CONFIG)
    assert set(found) == {"b"}
    assert found["b"].text == f"{own}\n \nEnd." and not found["b"].goes
    assert (found["b"].first, found["b"].of) == (NOTICE, "a")
    assert 0.1 < found["b"].share < 0.3


def test_white_space_does_not_hide_a_repeat_and_short_paragraphs_stay() -> None:
    own = "Something of its own that is said nowhere else, and at some length."
    wide = NOTICE.replace(" ", "\n  ")
    found = find_repeats([("a", f"Notes\n\n{BODY}\n\n{NOTICE}"), ("b", f"Notes\n\n{own}\n\n{wide}")], CONFIG)
    assert found["b"].text == f"Notes\n\n{own}"


def test_a_repeat_within_a_document_is_cut_too() -> None:
    found = find_repeats([("a", f"{BODY}\n\n{NOTICE}\n\n{BODY[:58]}\n\n{NOTICE}")], CONFIG)
    assert found["a"].text.count(NOTICE) == 1 and found["a"].of == "a"


def test_indentation_of_what_stays_is_kept() -> None:
    found = find_repeats([("a", NOTICE), ("b", f"{BODY}\n\n{NOTICE}\n\n\n    an indented line")], CONFIG)
    assert found["b"].text == f"{BODY}\n\n    an indented line"


def test_a_document_that_loses_too_much_goes_and_takes_nothing_with_it() -> None:
    """A paragraph that only the document that goes had still counts as new in the next one."""
    own = "This line stands in two documents, but the first of them goes."
    texts = [("a", BODY), ("b", f"{BODY}\n\n{own}"), ("c", f"Unlike the others, this one is about ships.\n\n{own}")]
    found = find_repeats(texts, CONFIG)
    assert set(found) == {"b"} and found["b"].goes and found["b"].share > 0.5


def test_nothing_is_never_what_is_left() -> None:
    lenient = CONFIG.model_copy(update={"max_share": 0.99})
    assert find_repeats([("a", BODY), ("b", BODY + "\n" * 400)], lenient)["b"].goes


def test_texts_without_repeats_are_not_touched() -> None:
    assert find_repeats([("a", BODY), ("b", BODY.replace("Paragraph", "Part") + "\n\n\n\n")], CONFIG) == {}
    assert find_repeats([("a", ""), ("b", "\n\n")], CONFIG) == {}
