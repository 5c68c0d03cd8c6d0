"""Attributes: known texts have known signals, and a tagged row fits its schema."""

from __future__ import annotations

import socket

import pytest

from k2core.corpus.dedup import MinhashConfig
from k2core.corpus.filters import code, language, quality, repetition
from k2core.corpus.filters.words import split_words
from k2core.corpus.tagging import COLUMNS, attribute_schema, tag

MINHASH = MinhashConfig(ngram_words=5, buckets=14, hashes_per_bucket=8, seed=1)
PROSE = (
    "The river rises in the mountains and flows to the sea. It has many towns on its banks, and people live with them."
)


def test_language_is_found_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a network connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert language.detect(PROSE, 500)[0] == "en"
    assert language.detect("Der Fluss entspringt in den Bergen und fließt dann ins Meer.", 500)[0] == "de"
    assert language.detect("El río nace en las montañas\ny corre hacia el mar.", 500)[0] == "es"
    assert language.detect(" \n ", 500) == ("und", 0.0)
    assert 0.5 < language.detect(PROSE, 500)[1] <= 1.0


def test_quality_tells_prose_from_symbols() -> None:
    prose = quality.attributes(PROSE, split_words(PROSE))
    assert prose["words"] == 23 and prose["terminal_line_share"] == 1.0 and prose["stop_words"] == 4
    assert prose["alpha_word_share"] > 0.85 and prose["symbol_word_ratio"] == 0.0
    junk = "### $$ %% ...\n- a\n- b\n- https://example.org/x\n"
    bad = quality.attributes(junk, split_words(junk))
    assert bad["symbol_word_ratio"] > 0.1 and bad["bullet_line_share"] == 0.75 and bad["short_line_share"] == 1.0
    assert bad["link_share"] > 0.4 and bad["stop_words"] == 0


def test_repetition_counts_what_repeats() -> None:
    once = repetition.attributes(PROSE, split_words(PROSE))
    assert once["repeated_line_share"] == 0.0 == once["repeated_5gram_characters"]
    text = "\n".join(["Click here to read the whole long story today"] * 10)
    again = repetition.attributes(text, split_words(text))
    assert again["repeated_line_share"] == 0.9 and again["repeated_line_characters"] > 0.85
    assert again["repeated_5gram_characters"] > 0.6 and again["repeated_10gram_characters"] > 0.5
    assert again["top_2gram_characters"] > 0.15


def test_code_signals() -> None:
    text = '# a comment\ndef f(x):\n    """Doc."""\n    return x\n'
    row = code.attributes(text)
    assert row["parses"] and row["comment_share"] == pytest.approx(11 / len(text))
    assert row["docstring_share"] == pytest.approx(4 / len(text)) and row["max_line_length"] == 14
    assert not code.attributes("def f(:\n")["parses"]
    assert not code.attributes("x = '\0'")["parses"]


@pytest.mark.parametrize("text", [PROSE, "", "x", "\n\n", "…", "def f(): return 1\n" * 50, "数学" * 40])
@pytest.mark.parametrize("domain", ["web", "code"])
def test_any_text_gives_a_whole_row_twice_the_same(text: str, domain: str) -> None:
    import pyarrow as pa

    document = {"id": "a/b", "text": text, "domain": domain}
    row = tag(document, 500, MINHASH)
    assert row == tag(document, 500, MINHASH)
    assert list(row) == list(COLUMNS)
    pa.Table.from_pylist([row], schema=attribute_schema())
    shares = [value for name, value in row.items() if name.endswith(("_share", "_characters")) and value is not None]
    assert all(0.0 <= value <= 1.0 for value in shares)
