"""The neighbours of names and numbers: two that changed places have each other's neighbours.

"Ada met Charles in 1833" and "Charles met Ada in 1833" have the same words, names and numbers; only the
neighbours of the names differ. Contexts are compared as bags of stems weighted by nearness, left and right apart;
`by` before a name (a passive) exchanges the two.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from k2core.synthesis.fidelity import facts

_TOKEN = re.compile(r"[^\W\d_]+|\d+(?:[.,]\d+)*")
_WINDOW = 4
_STEM = 5
_FUNCTION_WEIGHT = 0.3
_MOST_FACTS = 100
"""Facts of the source that are compared, the first ones: each is compared with every other."""

Context = dict[tuple[str, int], float]
"""Weight of each (stem, side), side -1 left of the fact and +1 right of it."""


@dataclass
class _Facts:
    """A text's names and numbers with their contexts, and the runs ("Ada Lovelace") that each is in, by number."""

    contexts: dict[str, Context]
    runs: dict[str, set[int]]


def roles(source: str, rewrite: str, common: frozenset[str]) -> float:
    """How well names and numbers keep their neighbours, -1 to 1; 1 where fewer than two are in both texts.

    Over the pairs of facts that both texts have, the least of: likeness of each with itself less likeness of each
    with the other, as a share of what the source's own contexts give. Exchanged facts give less than 0, reworded
    contexts about 0.
    """
    theirs, ours = _facts(source, common), _facts(rewrite, common)
    both = sorted([fact for fact in theirs.contexts if fact in ours.contexts][:_MOST_FACTS])
    if len(both) < 2:
        return 1.0
    like = np.array([[_overlap(ours.contexts[a], theirs.contexts[b]) for b in both] for a in both])
    whole = np.array([_overlap(theirs.contexts[a], theirs.contexts[a]) for a in both])
    own = np.diag(like)
    gain = own[:, None] + own[None, :] - like - like.T
    gain /= np.maximum(whole[:, None] + whole[None, :], 1e-9)
    apart = [
        gain[i, j] for i in range(len(both)) for j in range(i) if theirs.runs[both[i]].isdisjoint(theirs.runs[both[j]])
    ]
    return float(min(apart, default=1.0))


def _overlap(a: Context, b: Context) -> float:
    total = 0.0
    for (stem, side), weight in a.items():
        total += min(weight, max(b.get((stem, side), 0.0), 0.5 * b.get((stem, -side), 0.0)))
    return total


def _facts(text: str, common: frozenset[str]) -> _Facts:
    names = facts.names(text, common)
    found = _Facts({}, {})
    number = 0
    for sentence in facts.sentences(text):
        tokens = [_spelled_out(token) for token in _TOKEN.findall(sentence)]
        kinds = [token[0].isdigit() or (token[0].isupper() and token.lower() in names) for token in tokens]
        for start, end in _runs(tokens, kinds):
            flip = -1 if start and tokens[start - 1].lower() == "by" else 1
            context = _context(tokens, start, end, flip)
            number += 1
            for member in dict.fromkeys(token.lower() for token in tokens[start:end]):
                found.runs.setdefault(member, set()).add(number)
                held = found.contexts.setdefault(member, {})
                for key, weight in context.items():
                    held[key] = max(held.get(key, 0.0), weight)
    return found


def _spelled_out(token: str) -> str:
    """A number word in figures, figures without commas, other words as they are."""
    return str(facts.VALUES.get(token.lower(), token)).replace(",", "")


def _runs(tokens: list[str], kinds: list[bool]) -> Iterator[tuple[int, int]]:
    """Spans of neighbouring names; a number is a span of its own."""
    start = 0
    while start < len(tokens):
        if not kinds[start]:
            start += 1
            continue
        end = start + 1
        while end < len(tokens) and kinds[end] and not tokens[start][0].isdigit() and not tokens[end][0].isdigit():
            end += 1
        yield start, end
        start = end


def _context(tokens: list[str], start: int, end: int, flip: int) -> Context:
    context: Context = {}
    for side, places in ((-1, range(start - 1, -1, -1)), (1, range(end, len(tokens)))):
        distance = 1.0
        for place in places:
            if distance > _WINDOW:
                break
            word = tokens[place].lower()
            light = word in facts.FUNCTION_WORDS
            weight = (_FUNCTION_WEIGHT if light else 1.0) / distance
            key = (word[:_STEM], side * flip)
            context[key] = max(context.get(key, 0.0), weight)
            distance += _FUNCTION_WEIGHT if light else 1.0
    return context
