"""The fidelity gate on golden cases: a faithful rewrite passes, and each way to fail has its own reason."""

from __future__ import annotations

import pytest

from k2core.corpus import facts
from k2core.corpus.fidelity import ACCEPTED, SCORES, GateLimits, judge

LIMITS = GateLimits(
    numbers_kept=1.0, numbers_invented=0, names_kept=0.8, names_invented=0, length_ratio=(0.5, 1.6), copied=0.8,
    language_score=0.5, similarity=0.8, support=0.5,
)  # fmt: skip
SOURCE = (
    "Ada Lovelace was an English mathematician who worked with Charles Babbage on the Analytical Engine. "
    "In 1843 she published a translation of an article by Luigi Menabrea, to which she added notes of 65 pages. "
    "The notes hold what is often called the first computer program."
)
FAITHFUL = (
    "The English mathematician Ada Lovelace collaborated with Charles Babbage on the Analytical Engine. "
    "Her translation of Luigi Menabrea's article appeared in 1843, together with 65 pages of notes that she had added. "
    "What those notes contain is often described as the first computer program."
)
COMMON = facts.common_words([SOURCE, "the what her in notes it she an a however also its they this was by at people"])


def reason(rewrite: str, source: str = SOURCE) -> str:
    return judge(source, rewrite, LIMITS, COMMON).reason


def test_a_faithful_rewrite_passes() -> None:
    verdict = judge(SOURCE, FAITHFUL, LIMITS, COMMON)
    assert verdict.accepted and verdict.reason == ACCEPTED
    assert set(verdict.scores) == set(SCORES)
    assert verdict.scores["numbers_kept"] == 1.0 and verdict.scores["similarity"] > 0.9
    assert judge(SOURCE, FAITHFUL, LIMITS, COMMON) == verdict


@pytest.mark.parametrize(
    ("expected", "rewrite"),
    [
        ("names_kept", FAITHFUL.replace("Ada Lovelace", "Mary Somerville")),
        ("names_invented", FAITHFUL.replace("Babbage", "Dickens")),
        ("numbers_kept", FAITHFUL.replace("1843", "1834")),
        ("numbers_kept", FAITHFUL.replace("65 pages", "many pages")),
        ("numbers_invented", FAITHFUL + " She was then 27 years old."),
        ("names_invented", FAITHFUL + " Her father was the poet Byron."),
        ("support", FAITHFUL + " People everywhere love to cook fresh vegetables in the summer."),
        ("names_kept", FAITHFUL.replace("Charles Babbage", "a colleague").replace("Luigi Menabrea's", "somebody's")),
        ("copied", SOURCE),
        ("copied", SOURCE.replace("often", "sometimes")),
        ("empty", ""),
        ("empty", "  \n "),
        ("length_ratio", "Ada Lovelace was an English mathematician."),
        ("length_ratio", FAITHFUL + " " + FAITHFUL),
        (
            "language_score",
            "Ada Lovelace war eine englische Mathematikerin, die mit Charles Babbage an der Analytical Engine baute."
            " Im Jahr 1843 übersetzte sie einen Artikel von Luigi Menabrea und gab ihm 65 Seiten Anmerkungen bei.",
        ),
        (
            "similarity",
            "Ada Lovelace 1843, Charles Babbage 65: the English football team of Luigi Menabrea lost the match again "
            "at home because it rained and the Analytical Engine of the bus had broken down on the way there.",
        ),
    ],
)
def test_an_unfaithful_rewrite_is_rejected_for_its_fault(expected: str, rewrite: str) -> None:
    verdict = judge(SOURCE, rewrite, LIMITS, COMMON)
    assert not verdict.accepted and verdict.reason == expected, verdict


def test_numbers_are_compared_by_value() -> None:
    assert facts.numbers("In 1,024 days, twelve of 2.50 and 007") == {"1024", "12", "2.5", "7"}
    assert facts.numbers("one of the best") == set()
    assert facts.numbers("It ended on 7 May 1945.") == {"7", "1945"}


def test_names_are_capitals_that_are_no_sentence_starts() -> None:
    text = "However, the river Rhine flows to Basel. Basel's bridges are old: Many were built in May. I like them."
    common = frozenset({"however", "many", "bridges"})
    assert facts.names(text, common) == {"rhine", "basel", "may"}
    assert "however" in facts.names(text, frozenset())  # unknown first words count: the gate would rather reject


def test_sentences_keep_initials_and_abbreviations() -> None:
    text = 'J. R. R. Tolkien wrote "The Hobbit." It sold well (c. 1937). Dr. Smith agreed.\nA new line'
    assert facts.sentences(text) == [
        'J. R. R. Tolkien wrote "The Hobbit.', "It sold well (c. 1937).", "Dr. Smith agreed.", "A new line",
    ]  # fmt: skip


def test_forms_of_a_name_are_the_name() -> None:
    source = "The Americans and the Romans fought in Italy."
    rewrite = "In Italy, an American and a Roman army met in a fight."
    scores = judge(source, rewrite, LIMITS, frozenset({"the", "in"})).scores
    assert scores["names_kept"] == 1.0 and scores["names_invented"] == 0.0
