"""The part `rules`: what the attributes of `tag` say of a document, without reading it again."""

from __future__ import annotations

from typing import Any


def rules_score(domain: str, attributes: dict[str, Any]) -> float:
    """A score in [0, 1]: the mean of the domain's signals, higher is better.

    It tells good documents of a domain from poor ones, not one domain from another.
    """
    unique = 1.0 - attributes["repeated_5gram_characters"]
    if domain == "code":
        explained = min(1.0, 5 * (attributes["comment_share"] + attributes["docstring_share"]))
        return round((unique + explained + float(bool(attributes["parses"]))) / 3, 4)
    if domain == "math":
        return round((unique + attributes["right_equation_share"]) / 2, 4)
    prose = attributes["alpha_word_share"], attributes["terminal_line_share"], min(1.0, attributes["stop_words"] / 4)
    return round((unique + attributes["language_score"] + sum(prose)) / 5, 4)
