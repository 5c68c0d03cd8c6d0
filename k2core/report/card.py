"""The data card as a table: `data/documents/CARD.md`, written by `k2core.corpus.sources.card`, read back."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from k2core.storage import StorageError

_ROW = re.compile(r"\| (.+) \| (\S+) \| (.+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|")
_FIELDS = {
    "origin": "origin", "licences (documents)": "licences", "attribution (documents)": "attribution",
    "languages (documents)": "languages",
}  # fmt: skip


@dataclass
class Source:
    """What the card says of one source, in its words; `faults` are its lines on what was set aside."""

    name: str
    domain: str
    kind: str
    documents: int
    characters: int
    set_aside: int
    origin: str = ""
    licences: str = ""
    attribution: str = ""
    languages: str = ""
    faults: tuple[str, ...] = ()


def read_card(path: Path) -> list[Source]:
    """The card's sources, in its order.

    Raises:
        StorageError: there is no card, or it is not as `k2core.corpus.sources.card` writes it.
    """
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise StorageError(f"{path}: no data card; run the stage that makes it (`dvc repro ingest`)") from None
    sources: dict[str, Source] = {}
    current: Source | None = None
    for line in lines:
        if found := _ROW.fullmatch(line):
            documents, characters, set_aside = (int(number.replace(",", "")) for number in found.groups()[3:])
            sources[found[1]] = Source(found[1], found[2], found[3], documents, characters, set_aside)
        elif line.startswith("## "):
            current = sources.get(line[3:])
        elif current and line.startswith("- "):
            name, _, value = line[2:].partition(": ")
            if name in _FIELDS:
                setattr(current, _FIELDS[name], value)
            else:
                current.faults += (line[2:],)
    if not sources or not all(source.origin and source.licences for source in sources.values()):
        raise StorageError(f"{path}: not a data card with origin and licences by source; run ingest again")
    return list(sources.values())
