"""Texts that make careless code slow or raise: what repeats, what nests, what nearly matches, what is out of range."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from random import Random

# fmt: off
PIECES = (
    "a", "Aa ", "A", "9", "1+", "1+1=", "1=", "(", ")", "((1+", "1)", "1,", "1,111", "1.1.", "$1", "-", "--", "a-",
    "a-a.", "a@", "@", "a@b.", "a@b-", "a.", ".", ". ", "...", "? ", '."', "'", "a'", "’", "''", "\n", "\n \n", " ",
    "\t", "x ", "1 a ", "1 a1 ", "1/", "1/a", "= ", " =", "8.8.8.", "+1 2", "(212) ", "4111 ", "4111-", "\\", "\\a",
    "$$", "{", "}", "[", "f(", "not ", "lambda:", "if x:\n ", "'''", '"""', "#", "#\n", "http://", "e.g. ", "A. ",
    "A.B.", "Mr. ", "million ", "two hundred ", "one ", "and ", "by Aa ", "Aa by ", "before ", "\u0300\u0323",
    "a\u0300", "\ufeff", "\u2028", "\x85", "\x0c", "数", "é", "ß", "İ", "😀", "<think>", "</think>", '{"a":', "[[",
    '{"grade": ', "__label__", "\x00", "٣", "½", "²",
)
AROUND = (("1+1=", "9", ""), ("", "a-a.", "@"), ("", "9", "+1=1"), ("", "1+", "1 = 1"), ("a@", "a-", "!"))
# fmt: on


def texts(size: int) -> Iterator[tuple[str, str]]:
    """(name, text) of about `size` characters each: pieces repeated, between others, mixed; names by the thousand."""
    for piece in PIECES:
        yield repr(piece), piece * (size // len(piece))
    for before, piece, after in AROUND:
        yield f"{before}{piece}...{after}", before + piece * (size // len(piece)) + after
    random = Random(0)
    for _ in range(20):
        chosen = random.sample(PIECES, 3)
        yield f"mixed {chosen}", "".join(random.choices(chosen, k=size))[:size]
    words = ("".join(random.choices("abcdefghijklmnop", k=7)) for _ in range(size // 8))
    yield "distinct names", " ".join(word.capitalize() for word in words)
    yield "distinct sentences", "".join(f"{random.randrange(10**6)} Ab. " for _ in range(size // 10))


def too_slow(work: Callable[[str], object], size: int, milliseconds: float) -> list[str]:
    """The texts for which `work` takes more than so many milliseconds of this process per kilobyte, three times over.

    On a busy machine the same work takes up to twice the time of a process now and then.
    """
    slow = []
    for name, text in texts(size):
        spent = float("inf")
        for _ in range(3):
            if spent > milliseconds:
                started = time.process_time()
                work(text)
                spent = min(spent, 1e6 * (time.process_time() - started) / size)
        if spent > milliseconds:
            slow.append(f"{name}: {spent:.0f} ms per kB")
    return slow
