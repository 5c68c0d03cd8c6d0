"""Words as the quality and repetition signals count them."""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]+")


def split_words(text: str) -> list[str]:
    """Words and runs of punctuation, in order.

    datatrove's spaCy tokenizer splits English a little finer (clitics) at 20 times the cost; the thresholds that
    Gopher and FineWeb publish are shares, which it hardly changes.
    """
    return _WORD.findall(text)
