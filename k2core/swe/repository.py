"""A package as a repository: an installed pure-Python package of a permissive licence that brings its own tests."""

from __future__ import annotations

import hashlib
import marshal
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.util import MAGIC_NUMBER, source_hash
from pathlib import Path, PurePosixPath

from k2core.machine.packages import find_folder, license_of
from k2core.stage import StageError

PERMISSIVE = re.compile(r"\b(MIT|BSD|0BSD|Apache|ISC|PSF|Python Software Foundation)\b|BSD-", re.IGNORECASE)
OTHERS = re.compile(r"GPL|MPL|Mozilla|EUPL|CC-BY", re.IGNORECASE)
COMPILED = (".so", ".pyd", ".pyc")
LARGEST = 2**20
CHECKED = 0b11
"""Flags of a compiled file that is valid while the hash is that of the source."""
TEST_TOOLS = ("pytest",)
CONFIGURATION = ("conftest.py", "sitecustomize.py", "usercustomize.py", "pytest.py", "setup.py")


def is_test(path: str) -> bool:
    """Whether a file belongs to the tests: no solution may touch it."""
    place = PurePosixPath(path)
    folders = {"test", "tests", "testing"} & set(place.parts[:-1])
    return bool(folders) or place.name.startswith("test") or place.stem.endswith("_test") or place.name in CONFIGURATION


@dataclass(frozen=True)
class Repository:
    """A package: path → content of its files, paths beginning with its name."""

    name: str
    version: str
    license: str
    files: Mapping[str, bytes]
    needs: tuple[str, ...]
    """What its tests import beside it, by import name."""

    @cached_property
    def digest(self) -> str:
        """Of all its files."""
        total = hashlib.sha256()
        for path, content in sorted(self.files.items()):
            total.update(f"{path}\0{len(content)}\0".encode() + content)
        return total.hexdigest()

    @cached_property
    def compiled(self) -> dict[str, bytes]:
        """Its sources as Python keeps them (PEP 552), so that a sandbox need not compile them each time.

        Each says by hash what it was compiled from: where another content is, Python compiles that.
        """
        found = {}
        for path in self.sources:
            with suppress(SyntaxError, ValueError):  # files that nothing imports
                code = compile(self.files[path], f"/work/{path}", "exec", dont_inherit=True)
                place = PurePosixPath(path)
                name = f"{place.parent}/__pycache__/{place.stem}.{sys.implementation.cache_tag}.pyc"
                found[name] = (
                    MAGIC_NUMBER + CHECKED.to_bytes(4, "little") + source_hash(self.files[path]) + marshal.dumps(code)
                )
        return found

    @cached_property
    def test_files(self) -> list[str]:
        """Its files with tests."""
        return [
            path for path in sorted(self.files)
            if (PurePosixPath(path).name.startswith("test_") or path.endswith("_test.py")) and path.endswith(".py")
        ]  # fmt: skip

    @cached_property
    def sources(self) -> list[str]:
        """Its Python files that are no tests."""
        return [path for path in sorted(self.files) if path.endswith(".py") and not is_test(path)]


@cache
def repository(name: str) -> Repository:
    """An installed package by import name.

    Raises:
        StageError: it cannot serve; says why.
    """
    folder = find_folder(name)
    try:
        package = distribution(name)
    except PackageNotFoundError:
        raise StageError(f"{name}: no installed distribution of this name; leave it out of programs.packages") from None
    license = license_of(package)
    if not PERMISSIVE.search(license) or OTHERS.search(license):
        raise StageError(f"{name}: its licence is {license or 'not stated'}, not a permissive one; leave it out")
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    if compiled := [path for path in paths if path.suffix in COMPILED]:
        raise StageError(f"{name}: {compiled[0].name} is compiled; only pure Python can be changed and run")
    files = {
        f"{name}/{path.relative_to(folder)}": path.read_bytes() for path in paths if path.stat().st_size <= LARGEST
    }
    found = Repository(name, package.version, license, files, tuple(needs_of(package, name)))
    if not found.test_files:
        raise StageError(f"{name}: the installed package has no tests; leave it out of programs.packages")
    return found


def needs_of(package: Distribution, name: str) -> Iterator[str]:
    """Import names of pytest and of what the package requires, and what these require."""
    from packaging.requirements import Requirement

    todo, seen, given = [*TEST_TOOLS, package.metadata["Name"]], set[str](), {name}
    while todo:
        wanted = todo.pop(0).lower()
        if wanted in seen:
            continue
        seen.add(wanted)
        try:
            each = distribution(wanted)
        except PackageNotFoundError:
            continue
        for line in each.requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                todo.append(requirement.name)
        for top in _top_level(each):
            if top not in given:
                given.add(top)
                yield top


def _top_level(package: Distribution) -> list[str]:
    """The importable names that a distribution installs."""
    tops = set()
    for file in package.files or []:
        first = file.parts[0]
        if len(file.parts) > 1 and first.isidentifier() and file.suffix == ".py":
            tops.add(first)
        elif len(file.parts) == 1 and file.suffix == ".py":
            tops.add(Path(first).stem)
    return sorted(tops)
