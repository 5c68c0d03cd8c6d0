"""The walks of CONTRIBUTING.md: their steps, and a workspace that follows them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from workspace import ROOT, Workspace

WALKS = dict(
    re.findall(r"^### (.+?: \d) files?\n(.+?)(?=^### |\Z)", (ROOT / "CONTRIBUTING.md").read_text(), re.M | re.S)
)
"""Title, with the number of files → text."""


class Step(NamedTuple):
    """A block of a walk: `sh` are commands, a `diff` edits `file`, any other language is what a new `file` holds."""

    language: str
    file: str
    block: str


def steps(text: str) -> Iterator[Step]:
    """The blocks of a page with the file that each is about: the one named last in the paragraph before."""
    for before, language, block in re.findall(r"(.*?)^```(\w+)\n(.*?)^```$", text, re.M | re.S):
        named = re.findall(r"`([\w/.]+)`", before.rstrip().rpartition("\n\n")[2])
        yield Step(language, named[-1] if named else "", block)


def edited(file: str, content: str, diff: str) -> str:
    """`content` with a walk's edit, whose place it has once."""
    old, new = ("".join(f"{line[1:]}\n" for line in diff.splitlines() if line[:1] != sign) for sign in "+-")
    assert f"\n{content}".count(f"\n{old}") == 1, f"{file} has not once:\n{old}"
    return content.replace(old, new)


def follow(workspace: Workspace, text: str) -> None:
    """Take the steps of a walk."""
    for language, file, block in steps(text):
        place = workspace.root / file
        if language == "sh":
            workspace.type(block)
        elif language == "diff":
            place.write_text(edited(file, place.read_text(), block))
        else:
            assert not place.exists()
            place.write_text(block)
