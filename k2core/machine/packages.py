"""What installed Python packages say about themselves: folder, licence, authors, long description."""

from __future__ import annotations

import importlib.metadata as metadata
import importlib.util
import sys
from pathlib import Path

from k2core.storage import StorageError

_LICENSE_LENGTH = 80
"""Some packages put the whole text of their licence where its name belongs; a name is shorter than this."""


def find_folder(package: str) -> Path:
    """The folder of an importable package, found without running its code.

    Raises:
        StorageError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise StorageError(f"the Python package {package} is not installed; run `make setup`, or leave its source out")
    return Path(next(iter(spec.submodule_search_locations)))


def distribution(name: str) -> metadata.Distribution:
    """The installed distribution `name`.

    Raises:
        StorageError: it is not installed.
    """
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise StorageError(f"ingest: no installed package {name!r}; take it from the recipe or install it") from None


def versions() -> dict[str, str]:
    """Every installed distribution → its version, by the names of their folders: reading them all takes a second."""
    folders = (folder for place in sys.path for folder in sorted(Path(place or ".").glob("*.dist-info")))
    named = (folder.stem.rpartition("-") for folder in folders)
    return {name.lower(): version for name, _, version in named}


def license_of(package: metadata.Distribution) -> str:
    """The licence a package states (SPDX expression, licence field or classifiers), or "" where it states none."""
    about = package.metadata
    for stated in (_stated(about, "License-Expression"), _stated(about, "License")):
        if stated and stated.strip() not in ("", "UNKNOWN") and len(stated) <= _LICENSE_LENGTH and "\n" not in stated:
            return stated.strip()
    classifiers = [line.split(" :: ")[-1] for line in about.get_all("Classifier") or [] if line.startswith("License")]
    return " AND ".join(name for name in classifiers if name != "OSI Approved")


def author_of(package: metadata.Distribution) -> str:
    """Who to name: authors, maintainers, or else "the NAME developers"."""
    about = package.metadata
    for field in ("Author", "Author-email", "Maintainer", "Maintainer-email"):
        names = [part.split("<")[0].strip(' "') for part in _stated(about, field).split(",")]
        if named := [name for name in names if name and "@" not in name]:
            return ", ".join(named)
    return f"the {about['Name']} developers"


def _stated(about: metadata.PackageMetadata, field: str) -> str:
    """The first value of a field, "" where there is none."""
    return next(iter(about.get_all(field) or []), "")


def files_of(package: metadata.Distribution, suffixes: tuple[str, ...]) -> list[tuple[str, Path]]:
    """`(path inside the environment, file)` of a package's files that end in one of `suffixes`, sorted."""
    found = [(str(file), Path(str(file.locate()))) for file in package.files or [] if str(file).endswith(suffixes)]
    return sorted((name, path) for name, path in found if not name.startswith("..") and path.is_file())


def read_text(path: Path) -> str | None:
    """The text of a UTF-8 file, or None where it is something else (test data in other encodings)."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        return None
