"""The fidelity gate on golden cases: a faithful rewrite passes, and each way to fail has its own reason."""

from __future__ import annotations

import pytest

from benchmarks.gate import recipe_limits
from k2core.synthesis.fidelity import facts
from k2core.synthesis.fidelity.gate import ACCEPTED, SCORES, judge
from k2core.synthesis.fidelity.inventions import words_invented
from k2core.synthesis.fidelity.opposites import opposites

LIMITS = recipe_limits()["knowledge"].model_copy(
    update={
        "coverage": 0.4,
        "support": 0.4,
        "names_kept": 0.8,
        "numbers_kept": 1.0,
        "copied": 0.8,
        "similarity": 0.8,
        "length_ratio": (0.5, 1.6),
    }
)
"""Faithful rewrites by a person stray further from their source than those that the recipe's limits are chosen on."""
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
            "roles",
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


@pytest.mark.parametrize(
    ("expected", "rewrite"),
    [
        ("roles", FAITHFUL.replace("Charles Babbage", "Luigi X").replace("Luigi Menabrea", "Charles Babbage")
                          .replace("Luigi X", "Luigi Menabrea")),
        ("roles", FAITHFUL.replace("1843", "66").replace("65", "1843").replace("66", "65")),
        ("negations_changed", FAITHFUL.replace("is often described", "is not described")),
        ("opposites", FAITHFUL.replace("first", "last")),
        ("finished", FAITHFUL.removesuffix(" computer program.")),
        ("repeated", f"{FAITHFUL} as{' the first computer program as' * 4} the first."),
        ("coverage", FAITHFUL.split(" What those notes")[0]),
    ],
)  # fmt: skip
def test_faults_that_keep_every_word_or_number_are_seen(expected: str, rewrite: str) -> None:
    assert reason(rewrite) == expected, judge(SOURCE, rewrite, LIMITS, COMMON)


def test_number_words_have_their_value() -> None:
    assert facts.numbers("twenty-five men, three hundred and twelve, two and three") == {"25", "312", "2", "3"}
    assert facts.numbers("the nineteenth century; a thousand ships; two million") == {"19", "2000000"}
    assert facts.numbers("siete de dos", "es") == {"7", "2"} and facts.numbers("dix-sept", "fr") == {"17"}


def test_equations_are_compared_without_units() -> None:
    text = "26 girls x 2 boys/girl = 52 boys; €100/hour * 9 hours = €900. 956 = 2 × 478, so 36/12 = 3 days and x = 4"
    assert facts.equations(text) == {"26*2=52", "100*9=900", "956=2*478", "36/12=3"}


def test_an_opposite_is_one_only_where_its_word_is_gone() -> None:
    assert opposites("It rose before noon.", "It rose after noon.") == {"after"}
    assert not opposites("It rose before noon.", "Before noon it rose, and after that it slept.")
    assert opposites("High and low; a low tide.", "High and low; a high tide.") == {"high"}


SPANISH = (
    "Ana Robledo fue una botánica de Sevilla que describió doce especies de orquídeas. En 1931 viajó a Londres con su "
    "colega Pedro Quiroga, y en 1935 publicó su libro más conocido, que no se vendió bien."
)
ENGLISH = (
    "Ana Robledo was a botanist from Seville who described twelve species of orchids. In 1931 she travelled to London "
    "with her colleague Pedro Quiroga, and in 1935 she published her best-known book, which did not sell well."
)
FRENCH = (
    "Le pont de Brisac a été construit en 1887 par l'ingénieur Louis Tavernier. Long de 640 mètres, il relie Brisac à "
    "la ville de Saint-Amand et compte sept arches. Il a été fermé en 1954."
)
FRENCH_ENGLISH = (
    "The Brisac bridge was built in 1887 by the engineer Louis Tavernier. It is 640 metres long, links Brisac with the "
    "town of Saint-Amand and has seven arches. It was closed in 1954."
)


@pytest.mark.parametrize(
    ("source", "rewrite", "expected"),
    [
        (SPANISH, ENGLISH, ACCEPTED),
        (FRENCH, FRENCH_ENGLISH, ACCEPTED),
        (SPANISH, SPANISH, "language_score"),
        (SPANISH, FRENCH, "language_score"),
        (SPANISH, ENGLISH.replace("1935", "1953"), "numbers_kept"),
        (SPANISH, ENGLISH.replace("twelve", "eleven"), "numbers_kept"),
        (FRENCH, ENGLISH, "numbers_kept"),
        (FRENCH, FRENCH_ENGLISH.replace("Louis Tavernier", "Gustave Morel").replace("Brisac", "Lyon"), "names_kept"),
        (SPANISH, ENGLISH[:150], "finished"),
        (SPANISH, ENGLISH.split(". ")[0] + ".", "length_ratio"),
        (FRENCH, FRENCH_ENGLISH.replace("closed", "opened"), ACCEPTED),  # a changed verb is not seen
    ],
)
def test_translations_are_held_to_language_numbers_and_names(source: str, rewrite: str, expected: str) -> None:
    verdict = judge(source, rewrite, recipe_limits()["translation"], COMMON | {"long", "le", "en", "il"}, "en")
    assert verdict.reason == expected, verdict


def test_words_in_a_row_that_the_source_has_no_form_of_are_counted_within_a_clause() -> None:
    source = "Tom has 4 boxes with 12 pencils each. He gives away 9 pencils."
    assert words_invented(source, "With 12 pencils in each box, Tom has 4 boxes. Giving away 9 pencils follows.") == 1
    assert words_invented(source, "Tom has 4 boxes with 12 pencils each, although experts doubt that today.") == 4
    assert words_invented(source, "Experts. Doubt. Today.") == 1
