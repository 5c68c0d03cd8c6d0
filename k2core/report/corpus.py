"""The corpus part of the report: what came in, what went and why, how good it is, what is trained on."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from k2core.corpus.documents import sample
from k2core.report.card import Source, read_card
from k2core.report.marks import Piece, excerpt, shared
from k2core.report.mixture import Mixture, read_manifest
from k2core.storage import StorageError, read_lines, read_table

EXAMPLES = 5
"""Examples of each reason, and of the best and worst documents of a domain."""
CHARACTERS = 600
"""Most characters of an example's text."""
FAULTS = 50
"""Most entries of what was set aside."""
GRADES = ("rules", "classifier", "embedding", "llm", "quality")
"""Parts of the quality score and the whole: columns of `data/quality/<source>.parquet`."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Corpus:
    """What the stages of the corpus left.

    Attributes:
        documents: rows of the curated documents.
        rejected: rows of the rejected ones, with `reason`, `score`, `matched`, `passage`.
        evaluation: `SET/ITEM` → text of the evaluation items that documents are searched for.
        set_aside: what was set aside from files, over all sources.
        grades: document's id → its row of `data/quality`.
        mixture: what each phase takes of each domain.
        questions: question-answer pairs: rows of the accepted and of the rejected.
    """

    documents: list[Row]
    rejected: list[Row]
    evaluation: dict[str, str]
    card: list[Source]
    set_aside: list[Row]
    grades: dict[str, Row]
    mixture: Mixture
    questions: tuple[list[Row], list[Row]]


def read_corpus(
    documents: Path, curated: Path, tasks: Path, quality: Path, mixture: Path, questions: Path,
    phases: Sequence[str],
) -> Corpus:  # fmt: skip
    """Read the outputs of the corpus' stages.

    Args:
        phases: of pre-training, in their order.

    Raises:
        StorageError: a file that the page needs is missing or malformed.
    """
    from k2core.evals.text_sets import text_sets

    return Corpus(
        documents=read_table(curated / "documents.parquet"),
        rejected=read_table(curated / "rejected.parquet"),
        evaluation={f"{group.name}/{name}": text for group in text_sets(tasks) for name, text in group.texts.items()},
        card=read_card(documents / "CARD.md"),
        set_aside=[row for path in sorted(documents.glob("*.set_aside.jsonl")) for row in read_lines(path)],
        grades={row["id"]: row for path in sorted(quality.glob("*.parquet")) for row in read_table(path)},
        mixture=read_manifest(mixture / "manifest.yaml", phases),
        questions=(read_table(questions / "documents.parquet"), read_table(questions / "rejected.parquet")),
    )


def funnel_table(funnel: Sequence[Row]) -> list[Row]:
    """Each step of the funnel with what it removed; `share` is the share of documents left."""
    rows, before = [], funnel[0]
    for step in funnel:
        removed = {name: before[name] - step[name] for name in ("documents", "characters")}
        rows.append({**step, "removed": removed, "share": step["documents"] / max(1, funnel[0]["documents"])})
        before = step
    return rows


def rejections(corpus: Corpus) -> list[Row]:
    """Reasons, the most frequent first: `reason`, `count` and `examples` (`row`, `text`, `other`: marked pieces)."""
    texts = {row["id"]: row["text"] for row in (*corpus.documents, *corpus.rejected)}
    by_reason: defaultdict[str, list[Row]] = defaultdict(list)
    for row in corpus.rejected:
        by_reason[row["reason"]].append(row)
    return [
        {
            "reason": reason,
            "count": len(rows),
            "examples": [_example(row, texts, corpus.evaluation) for row in sample(rows, EXAMPLES, _id)],
        }
        for reason, rows in sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _example(row: Row, texts: dict[str, str], evaluation: dict[str, str]) -> Row:
    """A rejected document beside what it repeats, both cut to where the passage, or what they share, begins."""
    item = row["matched"]
    other = evaluation.get(item) or texts.get(item) or texts.get(item.partition("/")[2], "") if item else ""
    text = shared(row["text"], row["passage"] or other) if item else [Piece(row["text"])]
    marked = shared(other, row["passage"] or row["text"]) if other else [Piece(row["passage"], "shared")]
    return {"row": row, "text": excerpt(text, CHARACTERS), "other": excerpt(marked, CHARACTERS) if item else []}


def best_and_worst(corpus: Corpus) -> list[Row]:
    """Domains with the `best` and `worst` documents by quality, each with the parts of its score where it has them."""
    domains = []
    for domain, rows in sorted(by_domain(corpus.documents).items()):
        ranked = sorted(rows, key=lambda row: (-row["quality"], row["id"]))
        best = ranked[:EXAMPLES]
        worst = ranked[len(best) :][-EXAMPLES:][::-1]
        domains.append({"domain": domain, "groups": {
            name: [{"row": row, "parts": _parts(corpus.grades.get(row["id"], {})), "text": row["text"][:CHARACTERS]}
                   for row in group]
            for name, group in (("best", best), ("worst", worst))
        }})  # fmt: skip
    return domains


def _parts(grades: Row) -> list[tuple[str, float]]:
    return [(name, grades[name]) for name in GRADES[:-1] if grades.get(name) is not None]


def by_domain(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by their `domain`."""
    groups: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["domain"]].append(row)
    return dict(groups)


def questions(corpus: Corpus) -> Row:
    """Counts, reasons of the rejected with their number, and some of each, every reason in turn."""
    accepted, rejected = corpus.questions
    by_reason: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rejected:
        by_reason[row["reason"]].append(row)
    return {
        "counts": (len(accepted), len(rejected)),
        "reasons": Counter(row["reason"] for row in rejected).most_common(),
        "accepted": [_pair(row) for row in sample(accepted, EXAMPLES, _id)],
        "rejected": [_pair(row) for _, rows in sorted(by_reason.items()) for row in sample(rows, EXAMPLES, _id)],
    }


def _pair(row: Row) -> Row:
    if "text" not in row:
        raise StorageError(f"questions: a pair without a text; its columns are {', '.join(row)}")
    scores = [(name, value) for name, value in row.items() if isinstance(value, float)]
    return {"row": row, "scores": scores, "source": row.get("origin") or row.get("source_id") or ""}


def _id(row: Row) -> str:
    return str(row["id"])
