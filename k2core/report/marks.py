"""Texts in pieces that a page marks: what two texts share, what a rewrite kept, changed, lost and invented."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import groupby

from k2core.synthesis.fidelity import facts

RUN = 5
"""Words in a row that count as shared: the n-gram of the near-duplicate signatures."""
SHARED, GONE, NEW, FACT = "shared", "gone", "new", "fact"
"""CSS classes: words of both documents; words only of the source, only of the rewrite; names and numbers of those."""
_TOKEN = re.compile(r"\s*\S+")
_EDGES = re.compile(r"^\W+|\W+$")


@dataclass(frozen=True)
class Piece:
    """A stretch of a text and its CSS classes; the pieces of a text joined are the text."""

    text: str
    kind: str = ""


def shared(text: str, other: str) -> list[Piece]:
    """`text`, marked where `RUN` words in a row (or all of a shorter `other`) occur in `other` too.

    Words are compared without case and punctuation, as near duplicates and contamination are found.
    """
    from datatrove.utils.text import PUNCTUATION_TRANS

    def words(of: str) -> list[re.Match[str]]:
        return list(re.finditer(r"\S+", of.translate(PUNCTUATION_TRANS)))

    ours, theirs = words(text), words(other)
    n = min(RUN, len(theirs))
    if not n:
        return _joined([Piece(text)])
    left, right = ([match.group().lower() for match in matches] for matches in (ours, theirs))
    known = {tuple(right[i : i + n]) for i in range(len(right) - n + 1)}
    starts = [i for i in range(len(left) - n + 1) if tuple(left[i : i + n]) in known]
    pieces, done = [], 0
    for low, high in _runs(starts, n):
        begin, end = ours[low].start(), ours[high - 1].end()
        pieces += [Piece(text[done:begin]), Piece(text[begin:end], SHARED)]
        done = end
    return _joined([*pieces, Piece(text[done:])])


def excerpt(pieces: Iterable[Piece], characters: int) -> list[Piece]:
    """About `characters` of a text, from a little before its first marked piece on; dots where it is cut."""
    pieces = list(pieces)
    whole, before = sum(len(piece.text) for piece in pieces), 0
    for piece in pieces:
        if piece.kind:
            break
        before += len(piece.text)
    start = min(max(0, before - characters // 4), max(0, whole - characters)) if before < whole else 0
    cut, place = [Piece("… ")] if start else [], 0
    for piece in pieces:
        low, high = max(start - place, 0), start + characters - place
        if low < len(piece.text) and high > 0:
            cut.append(replace(piece, text=piece.text[low:high]))
        place += len(piece.text)
    return _joined([*cut, Piece(" …")] if start + characters < whole else cut)


def compared(source: str, rewrite: str, common: frozenset[str]) -> tuple[list[Piece], list[Piece]]:
    """Source and rewrite: words of only one are `GONE` or `NEW`, its own names and numbers `FACT` besides.

    Args:
        common: words of the corpus that are not names (`facts.common_words`).
    """
    left, right = _tokens(source), _tokens(rewrite)
    matcher = SequenceMatcher(None, [_plain(token) for token in left], [_plain(token) for token in right], False)
    kept_left, kept_right = set(), set()
    for block in matcher.get_matching_blocks():
        kept_left |= set(range(block.a, block.a + block.size))
        kept_right |= set(range(block.b, block.b + block.size))
    lost, invented = own_facts(source, rewrite, common), own_facts(rewrite, source, common)
    return _marked(left, kept_left, GONE, lost), _marked(right, kept_right, NEW, invented)


def own_facts(text: str, other: str, common: frozenset[str]) -> set[str]:
    """Names (in lower case) and numbers (written one way) of `text` that `other` lacks."""
    names = facts.names(text, common) - set(facts.words(other))
    return names | (facts.numbers(text) - facts.numbers(other))


def _marked(tokens: list[str], kept: set[int], kind: str, own: set[str]) -> list[Piece]:
    pieces = []
    for place, token in enumerate(tokens):
        kinds = [] if place in kept else [kind]
        named = set(facts.words(token)) if any(map(str.isupper, token)) else set()
        if own & (named | facts.numbers(token)):
            kinds.append(FACT)
        space = len(token) - len(token.lstrip())
        pieces += [Piece(token[:space]), Piece(token[space:], " ".join(kinds))]
    return _joined(_spaced(pieces))


def _spaced(pieces: list[Piece]) -> list[Piece]:
    """White space between two pieces of a kind is of that kind, so that they read as one."""
    out = list(pieces)
    for place in range(2, len(pieces), 2):
        if (kind := pieces[place - 1].kind) == pieces[place + 1].kind:
            out[place] = replace(pieces[place], kind=kind)
    return out


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text)


def _plain(token: str) -> str:
    bare = token.strip().lower()
    return _EDGES.sub("", bare) or bare


def _runs(starts: list[int], n: int) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for start in starts:
        if runs and start <= runs[-1][1]:
            runs[-1] = runs[-1][0], start + n
        else:
            runs.append((start, start + n))
    return runs


def _joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Neighbours of a kind as one piece; empty ones left out."""
    present = [piece for piece in pieces if piece.text]
    return [
        Piece("".join(piece.text for piece in group), kind)
        for kind, group in groupby(present, lambda piece: piece.kind)
    ]
