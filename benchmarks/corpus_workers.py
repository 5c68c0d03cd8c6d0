"""`python -m benchmarks.corpus_workers`: what a second worker brings to the steps that go from shard to shard.

The shipped prose multiplied (benchmarks/multiplied.py), tagged, put to the rules, and searched for held-out text, by
one worker and by two in turn, with the laptop recipe's parameters. One worker is the stage's own process; two are
processes of their own, which have to start. No evaluation set is searched for. Writes the block `corpus-workers` of
docs/corpus.md. The machine must be otherwise idle; it takes about a quarter of an hour on two cores.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import typer

from benchmarks.apart import LAPTOP, curation_of
from benchmarks.corpus_scale import prose
from benchmarks.harness import ROOT, commit, machine
from benchmarks.multiplied import Multiplied
from benchmarks.pages import VERDICTS, rewrite
from k2core.corpus.curation import write_passages
from k2core.corpus.steps import candidates, repeats, select
from k2core.corpus.workers import Corpus, Work, map_shards
from k2core.figures.tables import table
from k2core.recipe import load_section
from k2core.stage import Job
from k2core.storage import table_names
from stages import tag

PAGE = ROOT / "docs" / "corpus.md"
GOAL = 1.8


def main(
    shards: int = typer.Option(10, help="tables of documents"),
    shard: int = typer.Option(20_000, help="documents in a table"),
    rounds: int = typer.Option(2, help="times that each number of workers is measured"),
    folder: Path = typer.Option(None, help="where about 5 kB a document are written; default: the system's"),
) -> None:
    """Measure, and write the table."""
    seconds: dict[str, dict[int, list[float]]] = {}
    with tempfile.TemporaryDirectory(dir=folder) as name:
        root = Path(name)
        Multiplied(prose()).write(shards * shard, shard, root / "documents", root / "quality")
        for turn in range(rounds):
            for workers in (1, 2):
                for step, took in _steps(root, root / f"{turn}-{workers}", Corpus(workers=workers), shards * shard):
                    seconds.setdefault(step, {1: [], 2: []})[workers].append(took)
                    print(f"{step}, {workers} workers: {took:.1f} s", flush=True)
    rewrite(PAGE, "corpus-workers", page(seconds, shards, shard))


def page(seconds: dict[str, dict[int, list[float]]], shards: int, shard: int) -> str:
    """The table of docs/corpus.md."""
    rows = []
    for step, times in seconds.items():
        ratio = statistics.median(one / two for one, two in zip(times[1], times[2], strict=True))
        speeds = (f"{shards * shard / statistics.median(times[workers]):,.0f}" for workers in (1, 2))
        rows.append([step, *speeds, f"{ratio:.2f}", VERDICTS[ratio >= GOAL]])
    heads = ["step", "one worker, documents/s", "two", "ratio", f"goal {GOAL:g}"]
    said = f"{shards} tables of {shard:,} documents; medians of {len(times[1])}, in turn."
    return f"{table(heads, rows)}\n\n{said} Measured on {machine()}, commit {commit()}."


def _steps(root: Path, out: Path, corpus: Corpus, count: int) -> list[tuple[str, float]]:
    """Seconds of each step, whose outputs go to `out`."""
    documents, names = root / "documents", table_names(root / "documents")
    params = curation_of(count)
    tags = load_section(tag.Params, LAPTOP, "tag")
    folders, found = {name: out / "candidates" / name for name in names}, out / "repeats"
    inputs = candidates.Inputs(documents, out / "attributes", root / "quality")

    def over(work: Work) -> Callable[[], object]:
        return lambda: list(map_shards(work, names, corpus, out / "workers"))

    took = [
        ("tag", _timed(lambda: tag.run(tags, corpus, documents, out / "attributes", Job("tag", out / "tag", None)))),
        ("rules of curate", _timed(over(candidates.Ruling(inputs, params, folders)))),
    ]
    repeats.write_repeats([*folders.values()], params, found)
    leftovers = repeats.Leftovers(documents, folders, found)
    heldout = {name: out / "heldout" / name for name in names}
    list(map_shards(select.HeldOut(leftovers, params.decontamination.heldout_words, heldout), names, corpus, out / "w"))
    write_passages([], [*heldout.values()], params.decontamination, out / "passages")
    looking = select.Looking(leftovers, out / "passages", {name: out / "found" / name for name in names})
    return [*took, ("decontamination of curate", _timed(over(looking)))]


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
