"""Which files are code that an output may depend on, and the digest of all of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

CODE_ROOMS = ("k2core", "stages")
INERT_ROOMS = frozenset(("tracking", "lineage", "needs"))
"""They record, tell or check, and cannot change an output."""
COMPILED = (".c", ".h")
"""Sources that are compiled together: they belong to their whole folder."""
DATA = (".yaml", ".jinja", ".md")
"""Prompts, taxonomies, templates: they belong to the source files beside them that name them."""
CODE_SUFFIXES = (".py", *COMPILED, *DATA)


def is_code(file: Path) -> bool:
    """Whether an output may depend on `file`, a path relative to the project's root."""
    return file.suffix in CODE_SUFFIXES and file.parts[0] in CODE_ROOMS and not INERT_ROOMS & set(file.parts)


def code_digest(root: Path) -> str:
    """Digest of all code of the project at `root`: a training under way is only continued by the code that began it."""
    code = hashlib.md5()
    for file in sorted(path for room in CODE_ROOMS for path in (root / room).rglob("*")):
        if is_code(file.relative_to(root)):
            code.update(file.read_bytes())
    return code.hexdigest()
