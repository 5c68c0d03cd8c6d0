"""docs/own-data.md names every key with its default, and its examples are valid."""

from __future__ import annotations

import re
from typing import get_args

import yaml
from workspace import ROOT

from k2core.corpus.sources.files import FileSource, Filled, Kind

PAGE = (ROOT / "docs/own-data.md").read_text()
ROWS = {row[0]: row[1:] for row in re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \|$", PAGE, re.MULTILINE)}


def test_every_key_stands_there_with_its_default() -> None:
    for name, field in FileSource.model_fields.items():
        default = field.default
        if field.is_required():
            written = "required"
        elif isinstance(default, dict):
            written = "`{" + ", ".join(f"{key}: {value}" for key, value in default.items()) + "}`"
        else:
            written = f"`{default or chr(34) * 2}`"
        assert ROWS[name][0] == written, name


def test_every_kind_and_column_stands_there() -> None:
    kinds = PAGE.partition("## Formats")[2]
    assert all(f"| `{kind}` |" in kinds and f"`{kind}`" in ROWS["kind"][1] for kind in get_args(Kind))
    assert all(f"`{name}`" in ROWS["columns"][1] for name in get_args(Filled))


def test_the_examples_are_entries() -> None:
    blocks = re.findall(r"```yaml\n(.+?)```", PAGE, re.DOTALL)
    entries = [*yaml.safe_load(blocks[0])["ingest"]["files"], *yaml.safe_load(blocks[1])]
    assert {FileSource.model_validate(entry).kind for entry in entries} == set(get_args(Kind))
