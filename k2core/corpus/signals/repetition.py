"""Repetition signals: Gopher's shares of repeated lines, paragraphs and n-grams, by datatrove's functions."""

from __future__ import annotations

import re
from typing import Any

TOP_NGRAMS = (2, 3, 4)
REPEATED_NGRAMS = (5, 6, 7, 8, 9, 10)
COLUMNS = {
    "repeated_line_share": "float32",
    "repeated_line_characters": "float32",
    "repeated_paragraph_share": "float32",
    "repeated_paragraph_characters": "float32",
    **{f"top_{n}gram_characters": "float32" for n in TOP_NGRAMS},
    **{f"repeated_{n}gram_characters": "float32" for n in REPEATED_NGRAMS},
}
_PARAGRAPHS = re.compile(r"\n{2,}")
_LINES = re.compile(r"\n+")


def attributes(text: str, words: list[str]) -> dict[str, Any]:
    """Shares in [0, 1]; `words` are `split_words(text)`. Shares of characters are of the text's characters."""
    from datatrove.pipeline.filters.gopher_repetition_filter import (
        find_all_duplicate,
        find_duplicates,
        find_top_duplicate,
        get_n_grams,
    )

    size = max(1, len(text))
    paragraphs, lines = _PARAGRAPHS.split(text.strip()), _LINES.split(text)
    repeated_paragraphs, paragraph_characters = find_duplicates(paragraphs)
    repeated_lines, line_characters = find_duplicates(lines)
    row = {
        "repeated_line_share": repeated_lines / max(1, len(lines)),
        "repeated_line_characters": line_characters / size,
        "repeated_paragraph_share": repeated_paragraphs / max(1, len(paragraphs)),
        "repeated_paragraph_characters": paragraph_characters / size,
    }
    for n in TOP_NGRAMS:
        grams = get_n_grams(words, n)
        row[f"top_{n}gram_characters"] = find_top_duplicate(grams) / size if grams else 0.0
    for n in REPEATED_NGRAMS:
        # An n-gram that repeats contains a repeated (n-1)-gram: most texts are done at n = 5.
        shorter = row.get(f"repeated_{n - 1}gram_characters", 1.0)
        row[f"repeated_{n}gram_characters"] = find_all_duplicate(words, n) / size if shorter else 0.0
    return row
