"""A corpus of a few documents, as the stages would leave it: in files, in the formats of docs/architecture.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from k2core.corpus.documents import document_schema
from k2core.corpus.sources.card import SourceCard
from k2core.corpus.sources.card import render as render_card
from k2core.report.corpus import GRADES, Corpus, read_corpus
from k2core.storage import write_table, write_text

ITEM = "please book a table for two at the old harbour tonight"
FOLDERS = ("documents", "curated", "tasks", "quality", "mixture", "questions")
FUNNEL = [
    {"step": "ingested", "documents": 10, "characters": 1000},
    {"step": "exact_duplicate", "documents": 7, "characters": 700},
]


def document(name: str, text: str = "", domain: str = "web", **more: Any) -> dict[str, Any]:
    return {
        "id": f"s/{name}", "text": text or f"Text of {name}.", "domain": domain, "source": "s", "license": "CC0 <x>",
        "origin": "here", "attribution": "A. Writer", "language": "en", **more,
    }  # fmt: skip


def write_corpus(root: Path) -> dict[str, Path]:
    """Folder name → folder."""
    folders = {name: root / name for name in FOLDERS}
    quality, split = ("quality", pa.float64()), ("split", pa.string())
    kept = [
        document(f"{domain}{i}", domain=domain, quality=0.1 * i, split="train")
        for domain in ("web", "math")
        for i in range(8)
    ]
    kept.append(document("twin", "one two three four five six and the rest", quality=0.9, split="train"))
    write_table(folders["curated"] / "documents.parquet", kept, document_schema(quality, split))
    rejected = [
        document("short", reason="words", score=3.0, matched="", passage=""),
        document("near", "ONE two, three four five six but not so", reason="near_duplicate", score=0.8,
                 matched="s/twin", passage=""),
        document("leak", f"Well: {ITEM.capitalize()}!", reason="contaminated", score=1.0,
                 matched="tool_call/t1/instruction", passage=ITEM),
        document("held", "x " + "one two three four five six", reason="contaminated", score=0.5,
                 matched="heldout/s/twin", passage="one two three four five six"),
    ]  # fmt: skip
    extra = ("reason", pa.string()), ("score", pa.float64()), ("matched", pa.string()), ("passage", pa.string())
    write_table(folders["curated"] / "rejected.parquet", rejected, document_schema(*extra))
    task = f'{{"id": "t1", "split": "heldout", "instruction": "{ITEM}, thanks", "follow_up": ""}}\n'
    write_text(folders["tasks"] / "tasks.jsonl", task)
    card = SourceCard("s", "files", "a bucket", "web")
    card.set_aside({"shard": "b.jsonl", "row": None, "reason": "torn", "detail": "ends early"})
    for row in kept:
        card.add(row)
    write_text(folders["documents"] / "CARD.md", render_card([card]))
    fault = '{"source": "s", "shard": "b.jsonl", "row": null, "reason": "torn", "detail": "ends <early>"}\n'
    write_text(folders["documents"] / "s.set_aside.jsonl", fault)
    grades = [
        {"id": row["id"], "rules": row["quality"], "classifier": 1 - row["quality"], "embedding": 0.5,
         "llm": row["quality"] if i < 4 else None, "quality": row["quality"]}
        for i, row in enumerate(kept)
    ]  # fmt: skip
    schema = pa.schema([("id", pa.string()), *((name, pa.float64()) for name in GRADES)])
    write_table(folders["quality"] / "s.parquet", grades, schema)
    figures = {"epochs": 2.5, "tokens": 1_234_567, "upsampling": {"q1": 0.5, "q4": 1.5}, "weight": 0.9}
    phases = {"stable": {"tokens": 1_300_000, "domains": {"web": figures, "math": {"tokens": 1000, "epochs": 1.0}}}}
    plan = {"phases": phases, "totals": {}, "warnings": ["web: 2.5 epochs are <many>"]}
    write_text(folders["mixture"] / "manifest.yaml", yaml.safe_dump(plan, sort_keys=False))
    pairs = [document(f"q{i}", f"Question: how many? Answer: {i}") for i in range(3)]
    write_table(folders["questions"] / "documents.parquet", pairs, document_schema())
    bad = [{**pairs[0], "reason": "not in the source", "score": 0.25}]
    write_table(folders["questions"] / "rejected.parquet", bad, document_schema(*extra[:2]))
    return folders


def corpus(root: Path) -> Corpus:
    return read_corpus(**write_corpus(root), phases=["stable"])
