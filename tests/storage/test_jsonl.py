"""JSON lines survive whatever a string may hold, and a torn file is named with its line."""

import pytest

from k2core.storage import StorageError, read_lines, write_lines


def test_line_separators_inside_strings_are_no_line_ends(tmp_path):
    rows = [{"text": f"a{separator}b"} for separator in "\u2028\u2029\x85\x0b\x0c\x1c\n\r"]
    assert write_lines(tmp_path / "rows.jsonl", rows) == len(rows)
    assert read_lines(tmp_path / "rows.jsonl") == rows


def test_an_empty_file_has_no_rows(tmp_path):
    write_lines(tmp_path / "rows.jsonl", [])
    assert read_lines(tmp_path / "rows.jsonl") == []


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b'{"a": 1}\n{"a": ', r"rows\.jsonl:2: not JSON"),
        (b'{"a": 1}\n\n{"a": 2}\n', r"rows\.jsonl:2: not JSON"),
        (b'{"b": 1}\n', r"rows\.jsonl:1: no a; `dvc repro -f"),
        (b'{"a": "\xff"}\n', "not UTF-8"),
    ],
)
def test_a_fault_names_its_place(tmp_path, content, fault):
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(StorageError, match=fault):
        read_lines(tmp_path / "rows.jsonl", columns=["a"])
