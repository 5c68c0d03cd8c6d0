"""A text put into a format of rephrasing by rule: its own statements under headings that say nothing of the subject.

The formats are those of `styles/` that have a `form`. No model writes them here: the gate is measured on them
(`benchmarks.gate`), and they are arms of Table 1 in miniature (`experiments.table1`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random

from benchmarks.calibration.corrupted import Material, negated
from benchmarks.calibration.labelled import FAITHFUL, Pair
from k2core.synthesis.fidelity import facts

HEADINGS = {
    "faq": (
        "{title}: what should one know first?", "{title}: what else is there to know?", "{title}: what more is told?",
        "{title}: what do readers ask next?", "{title}: what is there to add?",
    ),
    "table": ("{title}", "Next point", "Further point", "Detail", "To add"),
    "tutorial": (
        "Get to know the subject", "Add what else there is to know", "Go on to the next point", "Take in one more fact",
        "Look at it from another side",
    ),
}  # fmt: skip
"""Format → its headings: that of the first statement, and those of the others, in turn."""
CLAIMS = ("denied_heading", "foreign_heading", "true_heading")
"""Kinds of claims that a heading makes; the last one is no fault."""
_CLAIMED = {"faq": "Why is it that {claim}?", "table": "{claim}", "tutorial": "Keep in mind that {claim}"}


def statements(text: str) -> list[str]:
    """The sentences and lines of a text; a question stays with what follows it, which is its answer."""
    found: list[str] = []
    for sentence in facts.sentences(text):
        if found and found[-1].endswith("?"):
            found[-1] += f" {sentence}"
        else:
            found.append(sentence.removeprefix("- "))
    return found


def put(name: str, title: str, text: str, number: int = 0, claim: str = "") -> str:
    """`text` in the format `name`, one of `HEADINGS`.

    Args:
        title: what the text is about.
        number: with another number the statements after the first have other headings.
        claim: a sentence that the first heading states instead.
    """
    said = statements(text)
    first, *others = HEADINGS[name]
    headings = [first, *(others[(number + place) % len(others)] for place in range(len(said) - 1))]
    headings = [heading.format(title=title) for heading in headings]
    if claim:
        headings[0] = _CLAIMED[name].format(claim=claim.translate({ord(sign): None for sign in ".|\n"}))
    return _LAYOUTS[name](headings, said)


def put_pairs(pairs: Sequence[Pair], name: str) -> Iterator[Pair]:
    """Labelled encyclopedia `pairs` in the format `name`, and what only a format can get wrong.

    Of each faithful rewrite there are three more with a claim for a heading, of the kinds `CLAIMS`: its own first
    statement denied, a statement of another article, and its own last statement as it is.
    """
    faithful = [pair for pair in pairs if pair.kind == FAITHFUL]
    others = faithful[1:] + faithful[:1]
    foreign = {
        pair.article: max(facts.sentences(other.rewrite), key=len) for pair, other in zip(faithful, others, strict=True)
    }
    for pair in pairs:
        title = pair.article.removeprefix("wikipedia/").replace("_", " ").partition(" (")[0]
        yield replace(pair, rewrite=put(name, title, pair.rewrite))
        if pair.kind == FAITHFUL:
            material = Material(pair.source, statements(pair.rewrite)[0], "", "", frozenset())
            denied, own = negated(material, Random(pair.article)), statements(pair.rewrite)[-1]
            claims = denied, foreign[pair.article], own
            for kind, claim in zip(CLAIMS, claims, strict=True):
                if claim:
                    yield replace(pair, rewrite=put(name, title, pair.rewrite, claim=claim), kind=kind)


def _faq(headings: list[str], said: list[str]) -> str:
    return "\n".join(f"Question: {asked}\nAnswer: {text}" for asked, text in zip(headings, said, strict=True))


def _table(headings: list[str], said: list[str]) -> str:
    """A statement is a row; where there are several, the last one is a sentence below the table instead."""
    cells = [text.replace("|", r"\|") for text in said[:-1] or said]
    rows = [f"| {heading} | {cell} |" for heading, cell in zip(headings, cells, strict=False)]
    below = ["", said[-1]] if len(said) > 1 else []
    return "\n".join(["| Aspect | What the text says |", "| --- | --- |", *rows, *below])


def _tutorial(headings: list[str], said: list[str]) -> str:
    steps = enumerate(zip(headings, said, strict=True), 1)
    return "\n".join(f"Step {number}: {heading}. {text}" for number, (heading, text) in steps)


_LAYOUTS = {"faq": _faq, "table": _table, "tutorial": _tutorial}
