"""What is written between asking and judging, and the judging of it: the work on a part of a block's documents.

All rewrites of a document are in one part, so that a repeated one is seen there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from k2core.corpus.documents import COLUMNS, document_schema
from k2core.corpus.workers import Watch
from k2core.storage import parse_json, publish, read_lines, write_json, write_lines, write_table
from k2core.synthesis.fidelity.gate import SCORES, GateLimits, Verdict, judge
from k2core.synthesis.rephrasing.checks import fault
from k2core.synthesis.rephrasing.rewriting import Job, Rewrite, Row
from k2core.synthesis.rephrasing.styles import Library

DOCUMENTS, VERDICTS, TALLY = "documents.parquet", "verdicts.parquet", "tally.json"
REJECTED = "rejected/"
PART = 256
"""Documents that are judged together: about a minute's work for one core."""
Judged = list[tuple[Rewrite, Verdict]]


def write_rewrites(folder: Path, rewrites: Sequence[Rewrite], documents: Iterable[Row]) -> None:
    """Publish a folder with a file for each part of a block, each rewrite with what is known of its document.

    Args:
        documents: the block's, in their order.
    """
    rewritten = {rewrite.job.source_id for rewrite in rewrites}
    sources = {row["id"]: row for row in documents if row["id"] in rewritten}
    part_of = {id: place // PART for place, id in enumerate(sources)}
    parts: dict[int, list[Row]] = {}
    for rewrite in rewrites:
        id = rewrite.job.source_id
        source = {name: sources[id][name] for name in COLUMNS if name != "text"}
        parts.setdefault(part_of[id], []).append({**asdict(rewrite), "source": source})
    with publish(folder) as scratch:
        scratch.mkdir()
        for part, rows in parts.items():
            write_lines(scratch / f"{folder.name}.{part:05}.jsonl", rows)


def parts_of(folders: Iterable[Path]) -> list[str]:
    """The names of the parts of blocks, in order, up to the first block that is not written."""
    return [file.stem for folder in takewhile(Path.exists, folders) for file in sorted(folder.iterdir())]


@dataclass(frozen=True)
class Judging:
    """The work on a part, called with its name: its verdicts and its accepted documents, into a folder of `out`.

    Args:
        asked: the folder with a folder of `write_rewrites` for each block.
        common: a file of the words that are no names, by the split of a style.
        gate: limits, by the name that a style gives.
    """

    asked: Path
    common: Path
    library: Library
    gate: Mapping[str, GateLimits]
    out: Path

    def __call__(self, part: str, watch: Watch) -> int:
        """Returns the number of rewrites."""
        lines = read_lines(self.asked / part.partition(".")[0] / f"{part}.jsonl")
        sources = [line.pop("source") for line in lines]
        rewrites = [Rewrite(**{**line, "job": Job(**line["job"])}) for line in lines]
        words = parse_json(self.common.read_text(encoding="utf-8"))
        verdicts = self._judged(rewrites, {split: frozenset(own) for split, own in words.items()}, watch)
        accepted = [
            _document(item, source, self.library)
            for source, (item, verdict) in zip(sources, verdicts, strict=True)
            if verdict.accepted
        ]
        with publish(self.out / part) as scratch:
            scratch.mkdir()
            write_table(scratch / DOCUMENTS, accepted, document_schema())
            write_table(scratch / VERDICTS, _verdict_rows(verdicts, self.library), verdict_schema())
            write_json(scratch / TALLY, tally(verdicts))
        return len(verdicts)

    def _judged(self, rewrites: Sequence[Rewrite], common: Mapping[str, frozenset[str]], watch: Watch) -> Judged:
        verdicts: Judged = []
        passed: set[tuple[str, str]] = set()
        for item in rewrites:
            style = self.library.style(item.job.style)
            watch.at(id := _id(item))
            if watch.kills(id):
                verdicts.append((item, Verdict(False, "unjudged", dict.fromkeys(SCORES, 0.0))))
                continue
            text = style.bare(item.text)
            limits, words = self.gate[style.gate], common[style.split]
            verdict = judge(item.job.source, text, limits, words, language=style.language)
            if item.refused:
                verdict = Verdict(False, f"refused: {item.refused}", verdict.scores)
            elif item.truncated:
                verdict = Verdict(False, "truncated", verdict.scores)
            elif verdict.accepted and (reason := fault(item.job, item.text, style, words)):
                verdict = Verdict(False, reason, verdict.scores)
            elif verdict.accepted and (item.job.source_id, item.text) in passed:
                verdict = Verdict(False, "duplicate", verdict.scores)
            if verdict.accepted:
                passed.add((item.job.source_id, item.text))
            verdicts.append((item, verdict))
        return verdicts


def _id(item: Rewrite) -> str:
    return f"rephrase/{item.job.style}/{item.job.number}/{item.job.source_id}"


def _document(item: Rewrite, source: dict[str, Any], library: Library) -> dict[str, Any]:
    name, language, other = item.job.style, library.style(item.job.style).language, item.job.linked
    attribution = f"{source['attribution']}; {other['attribution']}" if other else source["attribution"]
    licenses = dict.fromkeys((source["license"], other.get("license", source["license"])))
    return {
        **source,
        "id": _id(item),
        "text": item.text,
        "source": f"rephrase/{name}",
        "origin": source["id"],
        "license": " AND ".join(licenses),
        "attribution": f"{attribution}; {'translated' if language else 'rephrased'} by a language model",
        "language": language or source["language"],
    }


def verdict_schema() -> Any:
    """The columns of a table of verdicts."""
    import pyarrow as pa

    texts = ("source_id", "linked_id", "style", "perspective", "gate", "source_text", "rewrite", "reason")
    return pa.schema(
        [
            *((name, pa.string()) for name in texts),
            ("number", pa.int64()),
            ("accepted", pa.bool_()),
            *((name, pa.float64()) for name in SCORES),
        ]
    )


def _verdict_rows(verdicts: Judged, library: Library) -> list[Row]:
    return [
        {
            "source_id": item.job.source_id,
            "linked_id": item.job.linked.get("id", ""),
            "style": item.job.style,
            "perspective": item.job.perspective,
            "gate": library.style(item.job.style).gate,
            "number": item.job.number,
            "source_text": item.job.source,
            "rewrite": item.text,
            "reason": verdict.reason,
            "accepted": verdict.accepted,
            **verdict.scores,
        }
        for item, verdict in verdicts
    ]


def tally(verdicts: Judged) -> dict[str, float]:
    """Counts and sums, which add up over blocks; a refusal's own words are in the verdicts, not in its reason here."""
    accepted = [(item, verdict) for item, verdict in verdicts if verdict.accepted]
    answered = [verdict for item, verdict in verdicts if not item.refused]
    counts = {
        "rewrites": len(verdicts),
        "accepted": len(accepted),
        "accepted_characters": sum(len(item.text) for item, _ in accepted),
        "generated_tokens": sum(item.tokens for item, _ in verdicts),
        "answered": len(answered),
        "similarity": sum(verdict.scores["similarity"] for verdict in answered),
        "copied": sum(verdict.scores["copied"] for _, verdict in accepted),
    }
    styles = Counter(f"style/{item.job.style}" for item, _ in verdicts)
    styles.update(f"accepted/{item.job.style}" for item, _ in accepted)
    reasons = Counter(verdict.reason.partition(":")[0] for _, verdict in verdicts if not verdict.accepted)
    return counts | styles | {f"{REJECTED}{reason}": count for reason, count in reasons.items()}
