"""The page of an output on MLflow: its files, and what is in those that MLflow has no copy of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

STYLE = """\
:root { color-scheme: light dark }
body { font: 14px/1.4 system-ui, sans-serif; margin: 1em; background: Canvas; color: CanvasText }
table { border-collapse: collapse; margin: .5em 0 }
td, th { border: 1px solid #8886; padding: .2em .5em; text-align: left; vertical-align: top; max-width: 40em;
  overflow-wrap: anywhere; white-space: pre-wrap }
div { overflow-x: auto }"""


def page(output: Mapping[str, Any]) -> str:
    """HTML of an output as `outputs.described` tells of it."""
    files, rest = output["files"], output["count"] - len(output["files"])
    rows = [[file["path"], f"{file['bytes']:,}", "copied" if "changed" in file else "DVC"] for file in files]
    parts = [
        f"<h1>{escape(output['path'])}</h1><p>{output['count']:,} files, {output['bytes']:,} bytes. DVC has them: "
        "<code>references.json</code> of this run says by which md5, and how to fetch them.</p>",
        *(
            f"<h2>{escape(file['path'])}</h2><p>{file['bytes']:,} bytes, {escape(file['preview']['about'])}</p>"
            + _table(file["preview"]["columns"], file["preview"]["rows"])
            for file in files
            if "preview" in file
        ),
        "<h2>Files</h2>" + _table(["file", "bytes", "where"], rows),
        f"<p>… and {rest:,} more</p>" if rest else "",
    ]
    head = f'<meta charset="utf-8"><title>{escape(output["path"])}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div><table><tr>{head}</tr>{body}</table></div>"
