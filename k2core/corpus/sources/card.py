"""The data card: where the documents come from, under which licences, whom to name, what was set aside and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from k2core.storage.foreign import printable

MOST = 12
"""Licences, names and languages that the card spells out; every document carries its own in the table."""
COUNTED = 1000
"""Licences, names and languages that are counted one by one: a source may have as many as documents."""
OTHERS = "others"


@dataclass
class SourceCard:
    """What the card says of one source; filled document by document."""

    name: str
    kind: str
    origin: str
    domain: str
    documents: int = 0
    characters: int = 0
    licenses: Counter[str] = field(default_factory=Counter)
    attributions: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any]) -> None:
        """Count a row of a documents' table."""
        self.documents += 1
        self.characters += len(row["text"])
        for counts, name in (
            (self.licenses, "license"),
            (self.attributions, "attribution"),
            (self.languages, "language"),
        ):
            known = row[name] in counts or len(counts) < COUNTED
            counts[row[name] if known else OTHERS] += 1

    def set_aside(self, entry: Mapping[str, Any]) -> None:
        """Count an entry of the table of what was set aside: `shard`, `row` (None: all of it), `reason`, `detail`; with
        `more`, it stands for that many."""
        self.faults[entry["reason"]] += entry.get("more", 1)
        self.examples.setdefault(entry["reason"], entry)

    def first_fault(self) -> str:
        """What was set aside, in words, with the place of the most frequent fault's first case."""
        if not self.faults:
            return "nothing was set aside either"
        reason, count = _ranked(self.faults)[0]
        return f"set aside {sum(self.faults.values()):,}, most ({count:,}) as {reason}: {_place(self.examples[reason])}"


def render(cards: Iterable[SourceCard]) -> str:
    """The card as Markdown; depends on the documents and the recipe alone."""
    cards = list(cards)
    lines = [
        "# Data card",
        "",
        "Made by `ingest`. Each document's row has its licence, origin and attribution;",
        "what was set aside from files is in `<source>.set_aside.jsonl`.",
        "",
        "| source | domain | kind | documents | characters | set aside |",
        "|---|---|---|---:|---:|---:|",
    ]
    for card in cards:
        aside = sum(card.faults.values())
        lines.append(
            f"| {card.name} | {card.domain} | {card.kind} | {card.documents:,} | {card.characters:,} | {aside:,} |"
        )
    for card in cards:
        lines += [
            "",
            f"## {card.name}",
            "",
            f"- origin: {_plain(card.origin)}",
            f"- licences (documents): {_spelled(card.licenses)}",
            f"- attribution (documents): {_spelled(card.attributions)}",
            f"- languages (documents): {_spelled(card.languages)}",
        ]
        lines += [
            f"- set aside as {reason}: {count:,}, the first {_plain(_place(card.examples[reason]))}"
            for reason, count in _ranked(card.faults)
        ]
    return "\n".join(lines) + "\n"


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _spelled(counts: Counter[str]) -> str:
    ranked = _ranked(counts)
    named = "; ".join(f"{_plain(name)} ({count:,})" for name, count in ranked[:MOST])
    more = len(ranked) - MOST
    return f"{named}; and {more:,} more in the table" if more > 0 else named


def _place(entry: Mapping[str, Any]) -> str:
    row = f", row {entry['row']:,}" if entry["row"] is not None else ""
    return printable(f"{entry['shard']}{row}: {entry['detail']}")


def _plain(text: str) -> str:
    return printable(" ".join(text.split()))
