"""The README's table, written between two marks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from k2core.storage import write_text

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown of the results file's entries; a missed goal says so."""
    lines = ["| | ours | peer | ratio (quartiles) | goal | |", "|---|---|---|---|---|---|"]
    for row in rows:
        low, high = row["spread"]
        ours, peer = (f"{_number(row[who])} {row['unit']}" for who in ("ours", "peer"))
        sign = "≥" if row["better"] == "higher" else "≤"
        goal = "" if row["goal"] is None else f"{sign} {row['goal']:g}"
        verdict = {True: "met", False: "**missed**", None: ""}[row["met"]]
        ratio = f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
        lines.append(f"| {row['name']} ({row['note']}) | {ours} | {peer} | {ratio} | {goal} | {verdict} |")
    measured = sorted({f"{row['machine']}, commit {row['commit']}" for row in rows})
    return "\n".join([*lines, "", f"Measured on {'; '.join(measured)}."])


def rewrite(path: Path, content: str) -> None:
    """Put `content` between the marks of the file at `path`.

    Raises:
        ValueError: the two marks are not there, once each and in order.
    """
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or text.count(BEGIN) + text.count(END) != 2:
        raise ValueError(f"{path}: needs the marks {BEGIN} and {END}, once each and in this order")
    write_text(path, f"{before}{BEGIN}\n{content}\n{END}{after}")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
