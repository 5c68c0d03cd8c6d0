"""Quality signals: Gopher's (arXiv 2112.11446, table A1), C4's and FineWeb's rules as numbers without thresholds."""

from __future__ import annotations

from typing import Any

COLUMNS = {
    "characters": "int64",
    "words": "int64",
    "mean_word_length": "float32",
    "symbol_word_ratio": "float32",
    "alpha_word_share": "float32",
    "stop_words": "int64",
    "bullet_line_share": "float32",
    "ellipsis_line_share": "float32",
    "terminal_line_share": "float32",
    "short_line_share": "float32",
    "lines_per_word": "float32",
    "curly_brackets": "int64",
    "link_share": "float32",
}
_STOP_WORDS = {
    "en": frozenset(("the", "be", "to", "of", "and", "that", "have", "with")),
    "es": frozenset(("de", "la", "que", "el", "en", "y", "los", "se")),
    "fr": frozenset(("de", "la", "le", "et", "les", "des", "en", "un")),
}
"""Gopher's eight for English; for the languages that are translated from, the eight commonest words."""
_TERMINAL = (".", "!", "?", '"', "'", "”", ":", ";")
_SHORT_LINE = 30
"""FineWeb counts lines of at most 30 characters as short."""


def attributes(text: str, words: list[str], language: str = "en") -> dict[str, Any]:
    """Counts and shares of one text; `words` are `split_words(text)`.

    Stop words are those of `language` (ISO 639), English ones where there are none for it.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    letters = [word for word in words if word[0].isalnum()]
    n_words, n_letters, n_lines = max(1, len(words)), max(1, len(letters)), max(1, len(lines))
    linked = sum(len(word) for word in text.split() if "http://" in word or "https://" in word)
    return {
        "characters": len(text),
        "words": len(letters),
        "mean_word_length": sum(map(len, letters)) / n_letters,
        "symbol_word_ratio": (text.count("#") + text.count("...") + text.count("…")) / n_words,
        "alpha_word_share": sum(any(map(str.isalpha, word)) for word in words) / n_words,
        "stop_words": len(_STOP_WORDS.get(language, _STOP_WORDS["en"]) & {word.lower() for word in words}),
        "bullet_line_share": sum(line.startswith(("•", "-", "*")) for line in lines) / n_lines,
        "ellipsis_line_share": sum(line.endswith(("...", "…")) for line in lines) / n_lines,
        "terminal_line_share": sum(line.endswith(_TERMINAL) for line in lines) / n_lines,
        "short_line_share": sum(len(line) <= _SHORT_LINE for line in lines) / n_lines,
        "lines_per_word": len(lines) / n_words,
        "curly_brackets": text.count("{") + text.count("}"),
        "link_share": linked / max(1, len(text)),
    }
