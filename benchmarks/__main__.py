"""Measure our speed against the peers'. Writes benchmarks/results.json, the curves' points, the tables, pictures.

The machine must be otherwise idle: figures of a busy one are worthless.
"""

from __future__ import annotations

import importlib
import json
import time

import torch
import typer

from benchmarks import corpus, dedup_curves, growth, harness, readme, scale
from k2core.machine.memory import keep_freed_memory
from k2core.storage import write_json

TOPICS = (
    "forward_backward", "max_logit", "update", "training_step", "trainer", "decoding", "enforcer", "dedup",
    "corpus", "gate", "engine",
)  # fmt: skip
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
    rows = json.loads(harness.RESULTS.read_text())
    rows.sort(key=lambda row: TOPICS.index(row["command"].split()[-1]))
    if steps := [row for row in rows if row["command"].endswith(f" {corpus.TOPIC}")]:
        readme.rewrite(harness.ROOT / "docs" / "corpus.md", "corpus", corpus.table(steps))
    content = readme.table(rows)
    for curves in CURVES.values():
        if curves.PICTURE.exists():
            content += f"\n\n![{curves.CAPTION}]({curves.PICTURE.relative_to(harness.ROOT)})"
    readme.rewrite(harness.ROOT / "README.md", "bench", content)


if __name__ == "__main__":
    app()
