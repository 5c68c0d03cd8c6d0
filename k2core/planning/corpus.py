"""What the corpus of a crawl needs: `python -m k2core.planning.corpus RECIPE --crawl FILE --cores N`.

Documents, hours and bytes of each step, from the rates that `python -m benchmarks corpus` measured on one core. Pages
count by number, texts by their bytes. Work on shards is divided by the cores; a step that sees all documents is one
process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from pydantic import Field

from k2core.corpus.sources.files import FileSource
from k2core.figures.tables import table
from k2core.planning.tables import number
from k2core.recipe import RecipeError, Section, read_recipe, validate
from k2core.recipe.reading import read_yaml

RATES = Path("benchmarks/results.json")
PAGES = "web pages"
SIGNALS, SIGNATURES = "signals, ", "signatures"
OWN_DOMAIN = ("signals, code", "signals, mathematics")
"""Signals that are computed for one domain, which is not the web."""
REPEATS = ("exact duplicates", "near duplicates", "paragraphs")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


class Crawl(Section):
    """A crawl, and what becomes of it; the file says where each number is from."""

    files: int = Field(ge=1, description="WARC files")
    bytes: float = Field(gt=0, description="bytes of all files, compressed")
    pages: float = Field(gt=0, description="responses in all files")
    texts: float = Field(gt=0, le=1, description="share of the pages that give a document")
    text_bytes: float = Field(gt=0, description="bytes of a document's text, in the mean")
    kept: float = Field(gt=0, le=1, description="share of the documents' text that curation keeps")
    token_bytes: float = Field(gt=0, description="bytes of text that a token stands for")
    stored: float = Field(gt=0, description="bytes on disk of a byte of text in a documents' table")
    attributes: float = Field(gt=0, description="bytes on disk of a document's attributes and quality")

    def tokens(self, files: int) -> float:
        """What so many files give in the end."""
        return self.pages * files / self.files * self.texts * self.text_bytes * self.kept / self.token_bytes


@dataclass(frozen=True)
class Step:
    """One stage, or a part of it.

    Attributes:
        documents, read, written: how many it sees, the bytes that it reads and those that it writes.
        seconds: of one core; None where a rate was not measured.
        divided: whether the cores share it.
    """

    name: str
    documents: float
    read: float
    written: float
    seconds: float | None
    divided: bool = True

    def hours(self, cores: int) -> float | None:
        """How long it takes."""
        return None if self.seconds is None else self.seconds / 3600 / (cores if self.divided else 1)


class Rates:
    """Speeds of one core, by step of the benchmark's topic `corpus`."""

    def __init__(self, entries: Sequence[Mapping[str, Any]]) -> None:
        own = {entry["name"].removeprefix("corpus: "): entry for entry in entries if "corpus: " in entry["name"]}
        self._documents = {name: float(entry["ours"]) for name, entry in own.items()}
        self._bytes = {name: entry["ours"] * entry["bytes_each"] for name, entry in own.items()}
        self.measured = sorted({f"{entry['machine']}, commit {entry['commit']}" for entry in own.values()})

    def pages(self, count: float) -> float | None:
        """Seconds that reading so many pages takes."""
        return count / self._documents[PAGES] if PAGES in self._documents else None

    @property
    def signals(self) -> list[str]:
        """The steps of the benchmark that measure a web page's text."""
        return [name for name in self._bytes if name.startswith(SIGNALS) and name not in OWN_DOMAIN]

    def texts(self, size: float, *steps: str) -> float | None:
        """Seconds that `steps` take over `size` bytes of text."""
        if not all(step in self._bytes for step in steps):
            return None
        return sum(size / self._bytes[step] for step in steps)


def planned(crawl: Crawl, files: int, rates: Rates, vocabulary: int) -> list[Step]:
    """The steps from WARC files to token shards."""
    share = files / crawl.files
    pages, documents = crawl.pages * share, crawl.pages * share * crawl.texts
    text = documents * crawl.text_bytes
    tables, attributes, kept = text * crawl.stored, documents * crawl.attributes, text * crawl.kept
    token_size = 2 if vocabulary < 2**16 else 4
    return [
        Step("ingest", pages, crawl.bytes * share, tables, rates.pages(pages)),
        Step("tag", documents, tables, attributes, rates.texts(text, *rates.signals, SIGNATURES)),
        Step("grade", documents, tables + attributes, 0.0, None),
        Step("curate, search for repeats", documents, attributes, 0.0, rates.texts(text, *REPEATS), divided=False),
        Step("curate, decontamination", documents, 2 * tables, 0.0, rates.texts(text, "decontamination")),
        Step("curate, selection", documents, 2 * tables, tables, rates.texts(text, "read", "read"), divided=False),
        Step("tokenize", documents * crawl.kept, tables * crawl.kept, crawl.tokens(files) * token_size,
             rates.texts(kept, "tokenizing")),
    ]  # fmt: skip


def rendered(steps: Sequence[Step], cores: int, crawl: Crawl, files: int, rates: Rates) -> str:
    """The plan as Markdown."""
    rows, known, unknown = [], 0.0, []
    for step in steps:
        hours = step.hours(cores)
        known += hours or 0.0
        if hours is None:
            unknown.append(step.name)
        core = "not measured" if step.seconds is None else number(step.seconds / 3600)
        time = "" if hours is None else number(hours)
        who = str(cores) if step.divided else "1"
        sizes = (f"{size / 1e9:,.1f}" for size in (step.read, step.written))
        rows.append([step.name, f"{step.documents:,.0f}", *sizes, core, who, time])
    head = ["step", "documents", "reads, GB", "writes, GB", "core-hours", "cores", "hours"]
    lines = [
        f"{files:,} of {crawl.files:,} files, {crawl.bytes * files / crawl.files / 1e9:,.1f} GB:", "",
        table(head, rows, 1), "",
        f"{number(known)} hours in all" + (f", without {', '.join(unknown)}, not measured" if unknown else "") + ".",
        f"About {number(crawl.tokens(files) / 1e9)}e9 tokens.",
        f"Rates of one core, measured on {'; '.join(rates.measured)}.",
    ]  # fmt: skip
    return "\n".join(lines)


def plan_of(recipe: Path, crawl: Path, cores: int, files: int | None = None, rates: Path = RATES) -> str:
    """The plan of a recipe's crawl as Markdown.

    Raises:
        RecipeError: the recipe reads no crawl, or a file is not what it should be.
    """
    content = read_recipe(recipe)
    about = validate(Crawl, read_yaml(crawl), str(crawl))
    entries = [validate(FileSource, entry, f"{recipe}: ingest.files") for entry in content["ingest"]["files"]]
    if not any(entry.kind == "warc" and entry.limit != 0 for entry in entries):
        raise RecipeError(f"{recipe}: ingest.files has no entry of kind warc; there is no crawl to plan")
    speeds = Rates(json.loads(rates.read_text(encoding="utf-8")))
    count = min(files or about.files, about.files)
    return rendered(planned(about, count, speeds, content["model"]["vocab_size"]), cores, about, count, speeds)


@app.command()
def main(
    recipe: Path = typer.Argument(help="a recipe, e.g. recipes/web.yaml"),
    crawl: Path = typer.Option(help="what the crawl holds, e.g. k2core/planning/cc-main-2024-51.yaml"),
    cores: int = typer.Option(min=1, help="cores that work on shards"),
    files: int = typer.Option(None, min=1, help="WARC files that are read; default: all of the crawl"),
    rates: Path = typer.Option(RATES, help="the benchmarks' results"),
) -> None:
    """Say what it takes to make token shards of the WARC files in RECIPE."""
    try:
        print(plan_of(recipe, crawl, cores, files, rates))
    except (RecipeError, OSError) as error:
        print(f"planning: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app()
