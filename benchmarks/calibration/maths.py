"""Faithful learning notes of solved problems, by rules (the domain `math` of the gate)."""

from __future__ import annotations

import re
from random import Random

from benchmarks.calibration.faithful import with_synonyms
from k2core.synthesis.fidelity import facts

_SOLVED = re.compile(r"^Problem: (?P<problem>.+)\n(?P<steps>(?:.* = .*\n)+)Answer: (?P<answer>.+)$")
# fmt: off
_ASK = ("We want to answer this: {}", "The question is this: {}", "This is what we look for: {}", "Our task: {}")
_GIVEN = ("Here is what we know. {}", "We are told the following. {}", "These facts are given. {}", "We start here. {}")
_FIRST = ("First we work out {}", "We begin with {}", "The first step gives {}", "To start, {}")
_NEXT = ("Next comes {}", "Then we get {}", "After that, {}", "From there we find {}")
_END = ("So the answer is {}.", "That makes the answer {}.", "Therefore the result is {}.", "The answer we want is {}.")
# fmt: on
_VERBS = frozenset(("How", "Find", "Solve", "Calculate", "State", "What"))


def learning_note(text: str, random: Random) -> str | None:
    """A solved problem retold as a note: question first, then what is given, the steps, the answer.

    None where `text` is not a solved problem.
    """
    match = _SOLVED.match(text)
    if not match:
        return None
    sentences = [sentence.rstrip() for sentence in facts.sentences(match["problem"])]
    ask = next((sentence for sentence in reversed(sentences) if sentence.endswith("?")), sentences[0])
    given = " ".join(sentence for sentence in sentences if sentence is not ask)
    ask = ask[0].lower() + ask[1:] if ask.split()[0] in _VERBS else ask
    note = [random.choice(_ASK).format(ask)]
    if given:
        note.append(random.choice(_GIVEN).format(given))
    for place, step in enumerate(match["steps"].strip().split("\n")):
        opening = random.choice(_FIRST if place == 0 else _NEXT)
        inside = step[0].lower() + step[1:] if step.split()[0] in _STARTS else step
        note.append(opening.format(inside).rstrip(".") + ".")
    note.append(random.choice(_END).format(match["answer"].rstrip(".")))
    return with_synonyms(" ".join(note), random, 1.0)


_STARTS = frozenset(
    [
        "The",
        "There",
        "In",
        "So",
        "First",
        "Then",
        "Total",
        "Overall",
        "Together",
        "If",
        "A",
        "He",
        "She",
        "They",
        "It",
        "Each",
    ]
)
"""First words of steps that are not names."""
