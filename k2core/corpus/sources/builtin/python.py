"""Code: the Python standard library and named installed packages, each under the licence it states."""

from __future__ import annotations

import ast
import io
import platform
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pydantic import Field

from k2core.corpus.documents import Document, Domain, sample
from k2core.machine import packages
from k2core.recipe import Section
from k2core.storage import StorageError

NAME = "python"
DOMAIN: Domain = "code"
_SKIPPED = {"site-packages", "dist-packages", "__pycache__", "test", "tests", "idle_test", "pydoc_data", "encodings"}
"""Tests repeat themselves, and tables are not prose about anything."""


class Source(Section):
    """Modules, cut at top-level definitions where they are long."""

    limit: int = Field(ge=0, description="modules at most (0 leaves the source out)")
    packages: list[str] = Field(description="installed packages to read besides the standard library")
    max_characters: int = Field(ge=500, description="longer modules are cut before a top-level definition")


@dataclass(frozen=True)
class _Module:
    key: str
    path: Path
    license: str
    origin: str
    attribution: str


def installed(config: Source) -> dict[str, str]:
    """Python and the named packages → their versions.

    Raises:
        StorageError: a named package is not installed.
    """
    named = {name: packages.distribution(name).version for name in config.packages}
    return {"python": platform.python_version(), **named}


def documents(config: Source) -> Iterator[Document]:
    """One document per module or part of a module.

    Raises:
        StorageError: a named package is not installed or states no licence.
    """
    modules = [*_standard_library(), *(module for name in config.packages for module in _package(name))]
    for module in sample(modules, config.limit, key=lambda module: module.key):
        text = packages.read_text(module.path)
        parts = split_module(text, config.max_characters) if text else []
        for number, part in enumerate(parts):
            suffix = f"#{number}" if len(parts) > 1 else ""
            yield Document(
                id=f"{NAME}/{module.key}{suffix}",
                text=part,
                domain=DOMAIN,
                source=NAME,
                license=module.license,
                origin=module.origin,
                attribution=module.attribution,
                language="python",
            )


def split_module(text: str, max_characters: int) -> list[str]:
    """`text` cut before top-level statements so that each part is at most `max_characters` long.

    Joined, the parts are the text except for blank edges. A single statement that is longer stays whole: half a class
    is not Python. A text that does not parse is not cut at all; curation rejects it and says why.
    """
    if len(text) <= max_characters:
        return [text.strip()] if text.strip() else []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old modules hold escapes that newer Pythons warn about
            body = ast.parse(text).body
    except (SyntaxError, ValueError):
        return [text.strip()]
    starts = [min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))]) - 1 for node in body]
    lines = io.StringIO(text, newline="").readlines()  # as `ast` counts them; `splitlines` also cuts at form feeds
    edges = sorted({0, *starts[1:], len(lines)})
    parts: list[str] = []
    for start, end in pairwise(edges):
        piece = "".join(lines[start:end])
        if parts and len(parts[-1]) + len(piece) <= max_characters:
            parts[-1] += piece
        else:
            parts.append(piece)
    return [part.strip() for part in parts if part.strip()]


def _standard_library() -> Iterator[_Module]:
    root = Path(sysconfig.get_paths()["stdlib"])
    version = f"cpython-{sys.version_info.major}.{sys.version_info.minor}"
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if not _SKIPPED & set(name.parts[:-1]):
            yield _Module(
                f"{version}/{name.as_posix()}", path, "PSF-2.0", f"{version}:Lib/{name.as_posix()}",
                "Python Software Foundation",
            )  # fmt: skip


def _package(name: str) -> Iterator[_Module]:
    package = packages.distribution(name)
    stated = packages.license_of(package)
    if not stated:
        raise StorageError(f"ingest: package {name} states no licence in its metadata; take it from the recipe")
    origin = f"pypi:{package.metadata['Name']}=={package.version}"
    for file, path in packages.files_of(package, (".py",)):
        if not _SKIPPED & set(file.split("/")[:-1]):
            yield _Module(file, path, stated, f"{origin}:{file}", packages.author_of(package))
