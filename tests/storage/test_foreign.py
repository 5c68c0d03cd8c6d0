"""Text from outside: it cannot steer the terminal or break a file, and nothing else of it is changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from k2core.storage import parse_json, read_lines, write_lines, write_text
from k2core.storage.foreign import characters, one_line, printable


def test_escape_sequences_are_spelled_out() -> None:
    assert printable("\x1b]0;owned\x07a\rb\x9b31m\u202ec\udcff") == r"\x1b]0;owned\x07a\rb\x9b31m\u202ec\udcff"
    assert printable("Übung\t— 漢字 🦜\n") == "Übung\t— 漢字 🦜\n"
    assert one_line(ValueError("a\n\x1b[2J  b")) == r"a \x1b[2J b" and one_line(KeyError()) == "KeyError"
    assert len(one_line("x" * 10_000)) == 300


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (r'"\ud83d"', "\ufffd"),
        (r'"\ud83d\ude00 \ude00"', "😀 \ufffd"),
        (r'"\uD83Dx\\ud83d"', "\ufffdx\\ud83d"),
        (r'"\\\ud83d"', "\\\ufffd"),
        ('"plain \u2028 é"', "plain \u2028 é"),
    ],
)
def test_halves_of_characters_in_json_become_whole(given: str, wanted: str) -> None:
    assert parse_json(given) == wanted
    json.dumps(parse_json(given), ensure_ascii=False).encode()


def test_no_text_of_ours_dies_of_half_a_character(tmp_path: Path) -> None:
    assert characters("a\ud83d\ude00\ud83db") == "a😀\ufffdb"
    write_lines(tmp_path / "rows.jsonl", [{"text": "a\ud83db"}])
    assert read_lines(tmp_path / "rows.jsonl") == [{"text": "a\ufffdb"}]
    write_text(tmp_path / "a.txt", "\udc80\u2028\x0c\n")
    assert (tmp_path / "a.txt").read_bytes() == "\ufffd\u2028\x0c\n".encode()
