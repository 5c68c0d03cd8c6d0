"""What the benchmarks write into the README and the pages of `docs/`: each block is between two marks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from k2core.storage import write_text

README, MEASUREMENTS = "README.md", "docs/measurements.md"
VERDICTS = {True: "met", False: "**missed**", None: ""}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown of the results file's comparisons; a missed goal says so. Figures without a peer are left out."""
    rows = [row for row in rows if row["peer"] is not None]
    lines = ["| | ours | peer | ratio (quartiles) | goal | |", "|---|---|---|---|---|---|"]
    for row in rows:
        low, high = row["spread"]
        ours, peer = (f"{number(row[who])} {row['unit']}" for who in ("ours", "peer"))
        sign = "≥" if row["better"] == "higher" else "≤"
        goal = "" if row["goal"] is None else f"{sign} {row['goal']:g}"
        ratio = f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
        lines.append(f"| {row['name']} ({row['note']}) | {ours} | {peer} | {ratio} | {goal} | {VERDICTS[row['met']]} |")
    measured = sorted({f"{row['machine']}, commit {row['commit']}" for row in rows})
    return "\n".join([*lines, "", f"Measured on {'; '.join(measured)}."])


def rewrite(path: Path, name: str, content: str) -> None:
    """Put `content` between the marks `<!-- NAME:begin -->` and `<!-- NAME:end -->` of the file at `path`.

    Raises:
        ValueError: the two marks are not there, once each and in order.
    """
    begins, ends = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    text = path.read_text()
    before, begin, rest = text.partition(begins)
    _, end, after = rest.partition(ends)
    if not (begin and end) or text.count(begins) + text.count(ends) != 2:
        raise ValueError(f"{path}: needs the marks {begins} and {ends}, once each and in this order")
    write_text(path, f"{before}{begins}\n{content}\n{ends}{after}")


def number(value: float) -> str:
    """Three digits, more for large numbers."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
