"""Measure our speed against the peers'. Writes benchmarks/results.json, the curves' points, the tables, pictures.

The machine must be otherwise idle: figures of a busy one are worthless.
"""

from __future__ import annotations

import importlib
import json
import time
from typing import Any

import torch
import typer

from benchmarks import corpus, dedup_curves, growth, harness, headlines, pages, scale
from k2core.machine.memory import keep_freed_memory
from k2core.planning.corpus import plan_of
from k2core.storage import write_json

TOPICS = (
    "forward_backward", "max_logit", "update", "training_step", "trainer", "processes", "decoding", "enforcer", "dedup",
    "corpus", "gate", "faithfulness", "trajectories", "engine", "serve", "sandbox", "programs",
)  # fmt: skip
CORES = 1000
"""Of the plan in docs/corpus.md."""
CURVES = {"growth": growth, "dedup_curves": dedup_curves}

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def main(
    topics: list[str] = typer.Argument(None, help=f"of {', '.join((*TOPICS, *CURVES))}; default: all"),
    smoke: bool = typer.Option(False, help="tiny sizes, to see that everything runs; writes nothing"),
) -> None:
    """Measure."""
    chosen = topics or [*TOPICS, *CURVES]
    unknown = sorted(set(chosen) - {*TOPICS, *CURVES})
    if unknown:
        raise typer.BadParameter(f"no topic {unknown[0]}; there are {', '.join((*TOPICS, *CURVES))}")
    sizes = scale.smoke() if smoke else scale.full()
    torch.set_num_threads(sizes.threads)
    keep_freed_memory()
    for topic in chosen:
        started = time.monotonic()
        if curves := CURVES.get(topic):
            points = curves.run(sizes)
            if not smoke:
                write_json(curves.DATA, points)
                curves.draw(points, curves.PICTURE)
        else:
            found = importlib.import_module(f"benchmarks.{topic}").run(sizes)
            if not smoke:
                harness.save(found, harness.RESULTS)
            for entry in found:
                if entry.ratio is None:
                    print(f"{entry.name}: {entry.ours:,.3g} {entry.unit}", flush=True)
                    continue
                verdict = {True: "met", False: "missed", None: "no goal"}[entry.met]
                print(f"{entry.name}: {entry.ratio:.2f} ({verdict})", flush=True)
        print(f"{topic}: {time.monotonic() - started:.0f} s", flush=True)
    if not smoke and harness.RESULTS.exists():
        _write_tables()


def _write_tables() -> None:
    rows = in_order(json.loads(harness.RESULTS.read_text()))
    if steps := in_order(rows, corpus.TOPIC):
        page, planning = harness.ROOT / "docs" / "corpus.md", harness.ROOT / "k2core" / "planning"
        pages.rewrite(page, "corpus", corpus.table(steps))
        crawl = harness.ROOT / "recipes" / "web.yaml", planning / "cc-main-2024-51.yaml"
        pages.rewrite(page, "plan-crawl", plan_of(*crawl, cores=CORES, rates=harness.RESULTS))
    pages.rewrite(harness.ROOT / pages.MEASUREMENTS, "bench", bench_block(rows))
    headlines.write()


def in_order(rows: list[dict[str, Any]], *topics: str) -> list[dict[str, Any]]:
    """The rows of `topics` (default: of all), in the order of `TOPICS`."""
    place = {row["name"]: TOPICS.index(row["command"].split()[-1]) for row in rows}
    chosen = [row for row in rows if not topics or TOPICS[place[row["name"]]] in topics]
    return sorted(chosen, key=lambda row: place[row["name"]])


def bench_block(rows: list[dict[str, Any]]) -> str:
    """The block `bench` of docs/measurements.md: the table of `rows`, and the curves' pictures where they are drawn."""
    content = pages.table(rows)
    for curves in CURVES.values():
        if curves.PICTURE.exists():
            content += f"\n\n![{curves.CAPTION}]({curves.PICTURE.name})"
    return content
