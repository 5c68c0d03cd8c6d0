"""How curation grows with the corpus: speed, memory, and what is found of known duplicates.

`python -m benchmarks.corpus_scale --documents 200000` makes that many documents (benchmarks/multiplied.py), tags and
curates them with the laptop recipe's parameters (benchmarks/apart.py), adds the point to corpus_scale.json and writes
the table of docs/dedup.md. The quality is drawn, since grading asks an LLM. The machine must be otherwise idle.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import typer

from benchmarks.apart import LAPTOP, MIB, STEPS
from benchmarks.harness import ROOT, commit, machine
from benchmarks.multiplied import SHARES, SOURCE, Multiplied, found
from benchmarks.pages import VERDICTS, rewrite
from k2core.corpus.curation import EXACT, NEAR
from k2core.figures.tables import table
from k2core.recipe import load_section
from k2core.storage import read_table, write_json, write_lines
from stages.ingest import SOURCES
from stages.ingest import Params as Ingest

DATA = ROOT / "benchmarks" / "corpus_scale.json"
PAGE, PICTURE = ROOT / "docs" / "dedup.md", ROOT / "docs" / "bench-corpus.svg"
SHARD = 20_000
"""Documents in a table."""
PROSE = ("wikipedia", "package_docs")

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def main(
    documents: int = typer.Option(help="how many"),
    shard: int = typer.Option(SHARD, help="documents in a table"),
    folder: Path = typer.Option(None, help="where about 5 kB a document are written; default: the system's"),
) -> None:
    """Measure one size."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        point = measure(Multiplied(prose()), documents, shard, Path(name))
    points = json.loads(DATA.read_text()) if DATA.exists() else []
    points = [other for other in points if other["documents"] != documents]
    points = sorted([*points, point], key=lambda other: other["documents"])
    write_json(DATA, points)
    rewrite(PAGE, "corpus-scale", page(points))
    draw(points, PICTURE)
    print(page(points))


def prose() -> list[dict[str, Any]]:
    """The laptop recipe's documents of the sources that are prose."""
    params = load_section(Ingest, LAPTOP, "ingest")
    sources = (SOURCES[name].documents(getattr(params, name)) for name in PROSE)
    return [vars(document) for source in sources for document in source]


def measure(corpus: Multiplied, count: int, shard: int, root: Path) -> dict[str, Any]:
    """One point: speed and peak memory of the stages, and what was found of the duplicates."""
    corpus.write(count, shard, root / "documents", root / "quality")
    (root / "tasks").mkdir()
    write_lines(root / "tasks" / "tasks.jsonl", [])
    steps = {step: _apart(step, root, count) for step in STEPS}
    rejected = read_table(root / "curated" / "rejected.parquet", ["id", "reason", "matched"])
    repeated = [row for row in rejected if row["reason"] in (EXACT, NEAR)]
    by_rule = {_number(row["id"]) for row in rejected if not row["matched"]}
    pairs = ((_number(row["id"]), _number(row["matched"])) for row in repeated)
    recall, precision, due = found(pairs, set(range(count)) - by_rule, corpus)
    seconds = sum(steps[name]["seconds"] for name in ("tag", "curate"))
    return {
        "documents": count, "shards": -(-count // shard), "documents_per_second": count / seconds, "steps": steps,
        "duplicates": due, "recall": recall, "precision": precision, "by_rule": len(by_rule),
        "machine": machine(), "commit": commit(),
    }  # fmt: skip


def _number(id: str) -> int:
    return int(id.removeprefix(f"{SOURCE}/"))


def _apart(step: str, root: Path, count: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.apart", step, str(root), str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def page(points: list[dict[str, Any]]) -> str:
    """The table of docs/dedup.md."""
    head = [
        "documents", "shards", "tag and curate, documents/s", "tag, MiB", "curate, MiB", "search, MiB",
        "search, bytes a document", "duplicates", "recall", "precision",
    ]  # fmt: skip
    rows = [
        [
            f"{point['documents']:,}", str(point["shards"]), f"{point['documents_per_second']:,.0f}",
            *(f"{point['steps'][step]['peak_mib']:,.0f}" for step in ("tag", "curate", "search")),
            f"{point['steps']['search']['grown_mib'] * MIB / point['documents']:,.0f}",
            f"{point['duplicates']:,}", f"{point['recall']:.4f}", f"{point['precision']:.4f}",
        ]
        for point in points
    ]  # fmt: skip
    planted = ", ".join(f"{share:.0%} {kind} duplicates" for kind, share in SHARES.items())
    measured = sorted({f"{point['machine']}, commit {point['commit']}" for point in points})
    said = f"Planted: {planted}. Peaks include mapped files. Measured on {'; '.join(measured)}."
    return "\n\n".join([table(head, rows), *_goals(points), said])


def _goals(points: list[dict[str, Any]]) -> list[str]:
    """What issue 21 asks of the largest size, against the smallest and the one before."""
    if len(points) < 3:
        return []
    first, *_, before, last = points
    peak, other = (max(step["peak_mib"] for step in point["steps"].values()) for point in (last, before))
    grown = last["steps"]["search"]["grown_mib"] - before["steps"]["search"]["grown_mib"]
    each = grown * MIB / (last["documents"] - before["documents"])
    found = [
        ("speed of the largest, of the smallest's", last["documents_per_second"] / first["documents_per_second"],
         "≥", 0.9),
        ("peak of any process, GiB", peak / 1024, "≤", 1.5),
        (f"… of that at {before['documents']:,}", peak / other, "≤", 1.3),
        (f"search: bytes of each document beyond {before['documents']:,}", each, "≤", 40.0),
    ]  # fmt: skip
    rows = [
        [name, f"{value:.3g}", f"{sign} {goal:g}", VERDICTS[value >= goal if sign == "≥" else value <= goal]]
        for name, value, sign, goal in found
    ]  # fmt: skip
    return [table(["goal", "measured", "", ""], rows)]


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Speed and memory by the number of documents, as SVG that is equal for equal points."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "k2", "font.size": 9})
    from matplotlib import pyplot

    figure, (speed, memory) = pyplot.subplots(1, 2, figsize=(8, 3), layout="constrained")
    documents = [point["documents"] for point in points]
    speed.plot(documents, [point["documents_per_second"] for point in points], "o-", color="#2f6fed")
    speed.set(xscale="log", xlabel="documents", ylabel="tag and curate, documents/s", ylim=(0, None))
    for step, colour in zip(STEPS, ("#2f6fed", "#e8710a", "#8a8f98"), strict=True):
        peaks = [point["steps"][step]["peak_mib"] for point in points]
        memory.plot(documents, peaks, "o-", label=step, color=colour)
    memory.set(xscale="log", xlabel="documents", ylabel="most memory, MiB", ylim=(0, None))
    memory.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    app()
