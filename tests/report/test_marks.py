"""Marked pieces are the text they mark, and mark what they say."""

from __future__ import annotations

import pytest

from k2core.report.marks import FACT, GONE, NEW, RUN, SHARED, Piece, compared, excerpt, own_facts, shared

COMMON = frozenset(("the", "city", "in", "was", "founded"))


def text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def of(pieces: list[Piece], kind: str) -> list[str]:
    return [piece.text.strip() for piece in pieces if kind in piece.kind.split()]


def test_runs_of_shared_words_are_marked_whatever_their_case_and_punctuation() -> None:
    one = "Before it. The quick, brown fox JUMPS over; and after that"
    pieces = shared(one, "now the quick brown fox jumps over nothing")
    assert text(pieces) == one
    assert of(pieces, SHARED) == ["The quick, brown fox JUMPS over"]
    assert of(shared(one, "the quick brown fox sits"), SHARED) == [], f"fewer than {RUN} words"
    assert of(shared(one, "quick brown"), SHARED) == ["quick, brown"], "all of a short passage"
    assert shared(one, "") == [Piece(one)] and shared("", one) == []


def test_overlapping_and_neighbouring_runs_are_one_stretch() -> None:
    words = [f"w{i}" for i in range(14)]
    other = " ".join([*words[2:9], "x", *words[7:12]])
    assert of(shared(" ".join(words), other), SHARED) == [" ".join(words[2:12])]


@pytest.mark.parametrize("before", [0, 50, 900, 1990])
def test_an_excerpt_holds_the_first_mark(before: int) -> None:
    whole = [Piece("a" * before), Piece("mark", SHARED), Piece("b" * (2000 - before)), Piece("late", SHARED)]
    cut = excerpt(whole, 400)
    assert of(cut, SHARED)[0] == "mark"
    assert 380 <= len(text(cut).strip("… ")) <= 400
    assert text(cut).startswith("… ") == (before > 100) and text(cut).endswith(" …") == (before < 1990)
    assert excerpt(whole, 5000) == [piece for piece in whole if piece.text]
    assert text(excerpt([Piece("c" * 50)], 20)) == "c" * 20 + " …"


def test_kept_changed_lost_and_invented() -> None:
    source = "The city Rome was founded in 753, by Romulus."
    rewrite = "Rome, the city, was built in 754 by Romulus."
    left, right = compared(source, rewrite, COMMON)
    assert (text(left), text(right)) == (source, rewrite)
    assert of(left, FACT) == ["753,"] and of(right, FACT) == ["754"]
    assert "founded" in of(left, GONE) and "built" in of(right, NEW)
    assert not any("Romulus" in word for word in (*of(left, GONE), *of(right, NEW)))
    equal, _ = compared(source, source, COMMON)
    assert equal == [Piece(source)], "one unmarked piece"


def test_facts_are_those_of_one_text_alone() -> None:
    assert own_facts("In 1900 Anna met Bob", "anna knew twelve people", COMMON) == {"1900", "bob"}
    assert own_facts("twelve people", "12 people", COMMON) == set()
