"""The gate and the checks of questions on hostile texts: linear or limited, and reasoning is no part of a rewrite."""

from __future__ import annotations

import time

import pytest
from hostile import too_slow
from test_rephrasing import LIMITS, LOOSE, TEXTS

from k2core.synthesis.fidelity import facts, gate
from k2core.synthesis.fidelity.gate import judge
from k2core.synthesis.fidelity.inventions import words_invented
from k2core.synthesis.fidelity.opposites import opposites
from k2core.synthesis.fidelity.roles import roles
from k2core.synthesis.questions.grammar import extract
from k2core.synthesis.questions.pairs import _PAIR, MODEL, Pair, flaw, same
from k2core.synthesis.questions.problems import Problem
from k2core.synthesis.rephrasing.rewriting import chunk

NOTHING: frozenset[str] = frozenset()


def test_no_text_is_slow_for_what_is_read_off_the_surface() -> None:
    """All measures of the gate but the embeddings."""

    def measures(text: str) -> None:
        other = text[::-1]
        for language in ("en", "es"):
            facts.numbers(text, language)
        facts.equations(text)
        facts.negations(text)
        words_invented(text, other)
        opposites(text, other)
        roles(text, text, NOTHING)
        known = gate.Vocabulary(facts.words(text))
        sum(name in known for name in facts.names(other, NOTHING))
        gate.copied(facts.words(text), facts.words(other))
        chunk(text, 256)

    assert too_slow(measures, 12_000, milliseconds=40) == []


def test_no_answer_is_slow_for_questions() -> None:
    problem = Problem("x", "x", "x", "gcd", 1, 0)

    def read(text: str) -> None:
        if found := _PAIR.match(text):
            flaw(Pair(MODEL, "x", text, found["question"], found["answer"]))
        assert not problem.solved_by(text)
        same(text, text, 0.5)
        extract("Aa", f"Aa is a {text}")

    assert too_slow(read, 12_000, milliseconds=120) == []


def test_the_gate_is_limited() -> None:
    """The input of the bug report is too long to be judged; half of it is not, and is judged in little time."""
    assert judge("Aa " * 33_000, "Aa " * 33_000, LOOSE, NOTHING).reason == "too_long"
    started = time.process_time()
    judge("Aa " * 10_000, "Aa " * 10_000, LOOSE, NOTHING)
    judge("Aa. " * 8_000, "Aa. " * 8_000, LOOSE, NOTHING)
    assert time.process_time() - started < 20
    assert roles("Aa " * 33_000, "Aa " * 33_000, NOTHING) == 1.0


def test_numbers_beyond_all_words_for_them() -> None:
    assert facts.numbers("two " + "trillion " * 500) == {str(10**30)}
    assert facts.numbers("nine" + "9" * 5000) >= {"9" * 5000}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("4 boxes * 12 = 48 pencils", {"4*12=48"}),
        ("2+2=4, 3*3=9=9", {"2+2=4", "3*3=9"}),
        ("a = 1 + 2 = 3; 7 = 7; x12+3=15", {"1+2=3", "12+3=15"}),
        ("= 5 = (1 + 2) * 3 = 9%", {"5=(1+2)*3"}),
        ("1+1=" + "9" * 5000, {"1+1=" + "9" * 5000}),
    ],
)
def test_equations_are_found_around_their_sign(text: str, found: set[str]) -> None:
    assert facts.equations(text) == found


def test_abbreviations_stay_inside_sentences() -> None:
    assert facts.sentences("Mr. A. B. Smith came. He left.") == ["Mr. A. B. Smith came.", "He left."]


@pytest.mark.parametrize("thought", ["</think>\n\n{}", "<think>so</think>{}", "{}<think>so", "◁think▷so◁/think▷{}"])
def test_reasoning_in_a_rewrite_is_rejected(thought: str) -> None:
    source, rewrite = TEXTS["Ada"]
    assert judge(source, rewrite, LIMITS, frozenset({"the"})).accepted
    assert judge(source, thought.format(rewrite), LIMITS, frozenset({"the"})).reason == "reasoning"
    assert judge(source, thought.format(rewrite), LOOSE, frozenset({"the"})).reason == "reasoning"


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("Question: Where is it? \n\n Answer: Here.", ("Where is it? ", "Here.")),
        ("\n What is it?\nAnswer: a\nmore", ("What is it?", "a")),
        ("What is it? Answer: a", None),
        ("What is it?\nIt is\nAnswer: a", None),
    ],
)
def test_a_pair_is_a_line_and_an_answer(text: str, pair: tuple[str, str] | None) -> None:
    found = _PAIR.match(text)
    assert (found and (found["question"], found["answer"])) == pair
