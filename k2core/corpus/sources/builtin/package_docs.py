"""Web-like text: the long descriptions and the Markdown and reStructuredText files of installed packages."""

from __future__ import annotations

import importlib.metadata as metadata
import re
from collections.abc import Iterator
from itertools import pairwise

from pydantic import Field

from k2core.corpus.documents import UNDETERMINED, Document, Domain, sample
from k2core.machine import packages
from k2core.recipe import Section

NAME = "package_docs"
DOMAIN: Domain = "web"
_LEGAL = re.compile(r"licen[sc]e|copying|notice|authors", re.IGNORECASE)
_MARKDOWN_HEADING = r"^\#{1,3}[ ]\S.*$"
_RST_HEADING = r"^\S.*\n(?:={3,}|-{3,}|~{3,})[ ]*$"
_HEADING = re.compile(f"(?:{_MARKDOWN_HEADING})|(?:{_RST_HEADING})", re.MULTILINE)


class Source(Section):
    """Pages that people wrote for people, as found on the web."""

    limit: int = Field(ge=0, description="parts of package documentation at most (0 leaves the source out)")
    max_characters: int = Field(ge=500, description="longer pages are cut before a heading")


def installed(config: Source) -> dict[str, str]:
    """Every installed package → its version; each may give pages."""
    return packages.versions()


def documents(config: Source) -> Iterator[Document]:
    """One document per page or part of a page; packages that state no licence are left out."""
    if config.limit:
        yield from sample(_parts(config.max_characters), config.limit, key=lambda document: document.id)


def split_page(text: str, max_characters: int) -> list[str]:
    """`text` cut before headings into parts of at most `max_characters` (one section may be longer)."""
    if len(text) <= max_characters:
        return [text.strip()] if text.strip() else []
    edges = sorted({0, *(match.start() for match in _HEADING.finditer(text)), len(text)})
    parts: list[str] = []
    for start, end in pairwise(edges):
        section = text[start:end]
        if parts and len(parts[-1]) + len(section) <= max_characters:
            parts[-1] += section
        else:
            parts.append(section)
    return [part.strip() for part in parts if part.strip()]


def _parts(max_characters: int) -> Iterator[Document]:
    for package in _installed():
        stated = packages.license_of(package)
        if not stated:
            continue
        # The environment parses a package's whole metadata each time it is asked.
        name, version, author = package.metadata["Name"], package.version, packages.author_of(package)
        for page, text in _pages(package):
            parts = split_page(text, max_characters)
            for number, part in enumerate(parts):
                suffix = f"#{number}" if len(parts) > 1 else ""
                yield Document(
                    id=f"{NAME}/{name}/{page}{suffix}",
                    text=part,
                    domain=DOMAIN,
                    source=NAME,
                    license=stated,
                    origin=f"pypi:{name}=={version}:{page}",
                    attribution=author,
                    language=UNDETERMINED,
                )


def _installed() -> list[metadata.Distribution]:
    """Every installed distribution once, by name (an environment may list one twice)."""
    found = (package for package in metadata.distributions() if package.metadata["Name"])
    named = {package.metadata["Name"].lower(): package for package in found}
    return [named[name] for name in sorted(named)]


def _pages(package: metadata.Distribution) -> Iterator[tuple[str, str]]:
    # A field comes before the body of the file; where there are both, the body counts.
    descriptions = package.metadata.get_all("Description") or []
    description = next((str(text) for text in reversed(descriptions) if text), "")
    if description.strip() not in ("", "UNKNOWN"):
        yield "README", description
    for file, path in packages.files_of(package, (".md", ".rst")):
        if not _LEGAL.search(file) and (text := packages.read_text(path)):
            yield file, text
