"""Attributes: known texts have known signals, and a tagged row fits its schema."""

from __future__ import annotations

import socket

import pytest

from k2core.corpus.duplicates.dedup import MinhashConfig
from k2core.corpus.signals import code, language, mathematics, pii, prose, repetition
from k2core.corpus.tagging import COLUMNS, attribute_schema, tag
from k2core.corpus.words import split_words

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
    counted = prose.attributes(PROSE, split_words(PROSE))
    assert counted["words"] == 23 and counted["terminal_line_share"] == 1.0 and counted["stop_words"] == 4
    assert counted["alpha_word_share"] > 0.85 and counted["symbol_word_ratio"] == 0.0
    junk = "### $$ %% ...\n- a\n- b\n- https://example.org/x\n"
    bad = prose.attributes(junk, split_words(junk))
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


def test_rare_bytes_in_code_are_seen() -> None:
    words = ", ".join(f'"{word}"' for word in ("のに", "ので", "から", "まで", "より"))
    assert code.attributes("x = 1\n")["ascii_share"] == 1.0 == code.attributes("")["ascii_share"]
    assert code.attributes(f"STOP = [{words}]\n")["ascii_share"] < 0.8


def test_stop_words_are_those_of_the_language() -> None:
    text = "El río nace en la sierra y los barcos que van al mar se ven de lejos."
    assert prose.attributes(text, split_words(text), "es")["stop_words"] == 8
    assert prose.attributes(text, split_words(text))["stop_words"] == 0


def test_planted_personal_data_is_counted() -> None:
    text = (
        "Write to ada.byron@mills.org, not to ada@example.com. The server 8.8.8.8 answers, 192.168.0.1 is at home. "
        "Call +44 20 7946 0958, (212) 555-0123 or 212-555-0199. Pay with 4111 1111 1111 1111 or 378282246310005."
    )
    assert pii.attributes(text) == {"emails": 1, "ipv4": 1, "phones": 3, "cards": 2, "pii": 7}


@pytest.mark.parametrize(
    "text",
    [
        "In 1990-1995 it had 12 345 678 people; the number is 4111111111111112, or 1234567890123456.",
        "Version 1.2.3 of 2020-01-02, ISBN 978-0-306-40615-7, 123.456.789, 3.14159265358979, @decorator, x@y.",
        "555-0123 + 212 = 767 and +12345678 and 0.4111111111111111",
        PROSE,
    ],
)
def test_ordinary_numbers_are_no_personal_data(text: str) -> None:
    assert pii.attributes(text)["pii"] == 0


def test_luhn() -> None:
    assert pii.passes_luhn("4111 1111 1111 1111") and not pii.passes_luhn("4111 1111 1111 1112")
    assert not pii.passes_luhn("")


@pytest.mark.parametrize(
    ("text", "verdicts"),
    [
        ("219 * 500 = 109500", [True]),
        ("219 * 500 = 109501", [False]),
        ("109500 + 6570 + 1095 = 117165\n2 + 2 = 5", [True, False]),
        ("So 3 + 4 × (2 - 1) = 7, and 1,200 / 4 = 300.", [True, True]),
        ("10 / 3 = 3.33 but not 10 / 3 = 3.34 or 10 / 3 = 3", [True, False, False]),
        ("7 * $100 = $700; 3 / 6 = 50%; 2x + 3 = 9; x - 1 + 2 = 4; 2^3 + 1 = 9; 5 = 5; 1 / 0 = 1", []),
        ("3 + 4 = 2 + 5 = 7", [True]),
        ("939 = 3 × 313", []),
        ("25.5 - 6 = 19.5 * 2", []),
        ("-3 + 5 = 2", [True]),
        ("2 ** 3 = 8; a(1 + 2) = 3; 00012 + 1 = 13", []),
    ],
)
def test_arithmetic_is_checked(text: str, verdicts: list[bool]) -> None:
    assert [is_right for _, is_right in mathematics.equations(text)] == verdicts


def test_mathematics_signals() -> None:
    text = "\\frac{1}{2} is half.\n6 / 2 = 3\n6 / 2 = 4\n"
    row = mathematics.attributes(text)
    assert row["latex_commands"] == 1 and row["equations"] == 2 and row["wrong_equations"] == 1
    assert row["right_equation_share"] == 0.5 and row["digit_share"] == pytest.approx(8 / len(text))
    assert mathematics.attributes(PROSE)["right_equation_share"] == 1.0 and mathematics.attributes("")["equations"] == 0


@pytest.mark.parametrize("text", [PROSE, "", "x", "\n\n", "…", "def f(): return 1\n" * 50, "数学" * 40])
@pytest.mark.parametrize("domain", ["web", "code", "math"])
def test_any_text_gives_a_whole_row_twice_the_same(text: str, domain: str) -> None:
    import pyarrow as pa

    document = {"id": "a/b", "text": text, "domain": domain}
    row = tag(document, 500, MINHASH)
    assert row == tag(document, 500, MINHASH)
    assert list(row) == list(COLUMNS)
    pa.Table.from_pylist([row], schema=attribute_schema())
    shares = [value for name, value in row.items() if name.endswith(("_share", "_characters")) and value is not None]
    assert all(0.0 <= value <= 1.0 for value in shares)
