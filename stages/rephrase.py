"""Knowledge and mathematics rephrased by an LLM behind a fidelity gate (K2 §2.2).

A sample of the curated training documents is rewritten in the styles and perspectives of the folder `styles/`, long
ones chunk by chunk; documents in other languages are translated. Every rewrite is judged against its source; the
verdicts are kept with their scores, the accepted rewrites become documents. The curated table is read a block at a
time. A killed run continues after the finished blocks, and within one from its replay cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from k2core.corpus.blocks import Block, blocks_of
from k2core.corpus.documents import COLUMNS, document_schema
from k2core.llm.client import LLM
from k2core.llm.config import LLMConfig, own_llm
from k2core.machine import Compute
from k2core.recipe import Section
from k2core.stage import Job, Metrics, StageError, main
from k2core.storage import parse_json, publish, read_columns, stream_table, write_json, write_table
from k2core.synthesis.fidelity.gate import LONGEST, SCORES, GateLimits, Verdict, judge
from k2core.synthesis.rephrasing.forecast import forecast
from k2core.synthesis.rephrasing.rewriting import Draw, Rewrite, Row, Share, expected_tokens, rewrite_all
from k2core.synthesis.rephrasing.styles import Library, load_styles

SECTION = "rephrase"
DOCUMENTS, VERDICTS, TALLY = "documents.parquet", "verdicts.parquet", "tally.json"
REJECTED = "rejected/"
SPLITS = {"train": ("train",), "foreign": ("train", "foreign")}
"""Split of a style's documents → the splits in which a word in lower case is no name."""
Judged = list[tuple[Rewrite, Verdict]]


class Params(Section):
    """How much is rewritten, how, and what is accepted."""

    rewrites: dict[str, Share] = Field(description="what is rewritten, by style of the folder styles/")
    min_characters: int = Field(ge=1, description="shorter documents are not rewritten")
    max_characters: int = Field(ge=1, le=LONGEST, description="longer documents are not rewritten")
    chunk_tokens: int = Field(ge=16, description="longer texts are rewritten in pieces of about this size (K2: 256)")
    context_tokens: int = Field(ge=0, description="tokens of earlier pieces and their rewrites that a piece sees")
    temperature: float = Field(ge=0, le=2, description="sampling temperature of the rewrites")
    gate: dict[str, GateLimits] = Field(description="limits of the fidelity gate, by the name that a style gives")
    llm: dict[str, Any] = own_llm()


def run(params: Params, llm: LLMConfig, compute: Compute, curated: Path, styles: Path, out: Path, job: Job) -> Metrics:
    """Write the accepted rewrites as documents, and every verdict."""
    llm = llm.with_own(params.llm, "rephrase.llm")
    compute.apply()
    library = load_styles(styles)
    if all(share.documents == 0 for share in params.rewrites.values()):
        job.say("skipped: rephrase.rewrites asks for no document; the tables are empty")
        _join([], DOCUMENTS, document_schema(), out)
        _join([], VERDICTS, _verdict_schema(), out)
        return _figures(_tally([]))
    blocks = blocks_of("curated", curated / "documents.parquet")
    _check_gate(params, library)
    draw = Draw(library, params.rewrites, compute.seed)
    common = _look(blocks, draw, params, library)
    work: list[tuple[Block, int]] = []
    prompts = answers = count = 0
    sources: Counter[str] = Counter()
    for block in blocks:
        if jobs := draw.jobs(_fitting(_read(block), params), params.chunk_tokens):
            work.append((block, sum(len(item.chunks) for item in jobs)))
            expected = expected_tokens(jobs, library, params.context_tokens)
            prompts, answers, count = prompts + expected[0], answers + expected[1], count + len(jobs)
            sources[block.name] = len({item.source_id for item in jobs})
    chunks, styles_used = sum(number for _, number in work), len(draw.shares)
    cost = forecast(chunks, prompts, answers, llm)
    job.say(f"{count} rewrites of {sources.total()} documents in {styles_used} styles: {cost.sentence()}")
    folders = [job.scratch / "blocks" / block.name for block, _ in work]
    done = 0
    with LLM.open(llm, compute, job.answers) as model:
        for (block, own), folder in zip(work, folders, strict=True):
            if not folder.exists():
                rows = _fitting(_read(block), params)
                with job.progress(chunks, "chunk", done) as bar:
                    rewrites = rewrite_all(
                        model, draw.jobs(rows, params.chunk_tokens), library, temperature=params.temperature,
                        seed=compute.seed, context_tokens=params.context_tokens, bar=bar,
                    )  # fmt: skip
                verdicts = _judged(rewrites, common, library, params.gate, job)
                _write_block(folder, verdicts, {row["id"]: row for row in rows}, library)
            done += own
    tally: Counter[str] = Counter()
    for folder in folders:
        tally.update(parse_json((folder / TALLY).read_text(encoding="utf-8")))
    if not tally["accepted"]:
        _join(folders, VERDICTS, _verdict_schema(), job.scratch)
        reasons = {name.removeprefix(REJECTED): number for name, number in tally.items() if name.startswith(REJECTED)}
        most = ", ".join(f"{reason} {number:.0f}" for reason, number in Counter(reasons).most_common(3))
        raise StageError(
            f"none of {tally['rewrites']:.0f} rewrites passed the gate ({most}, see {job.scratch / VERDICTS}); "
            "rewrite more, loosen rephrase.gate or choose a better llm.model"
        )
    _join(folders, DOCUMENTS, document_schema(), out)
    _join(folders, VERDICTS, _verdict_schema(), out)
    return _figures(tally)


def _read(block: Block) -> list[Row]:
    rows: list[Row] = block.read([*COLUMNS, "split"]).to_pylist()
    return rows


def _fitting(rows: list[Row], params: Params) -> list[Row]:
    return [row for row in rows if params.min_characters <= len(row["text"]) <= params.max_characters]


def _look(blocks: list[Block], draw: Draw, params: Params, library: Library) -> dict[str, frozenset[str]]:
    """The first pass: which documents are drawn. Returns the words that are no names, by the split of a style."""
    from k2core.synthesis.fidelity.facts import common_words

    domains = {library.style(name).domain for name in draw.shares}
    common = {split: frozenset[str]() for split in SPLITS}
    for block in blocks:
        rows = _read(block)
        draw.see(_fitting(rows, params))
        for split, splits in SPLITS.items():
            texts = (row["text"] for row in rows if row["domain"] in domains and row["split"] in splits)
            common[split] |= common_words(texts)
    draw.check()
    return common


def _write_block(folder: Path, verdicts: Judged, rows: dict[str, Row], library: Library) -> None:
    """Publish what was made of a block."""
    accepted = [_document(item, rows[item.job.source_id], library) for item, verdict in verdicts if verdict.accepted]
    with publish(folder) as scratch:
        scratch.mkdir()
        write_table(scratch / DOCUMENTS, accepted, document_schema())
        write_table(scratch / VERDICTS, _verdict_rows(verdicts, library), _verdict_schema())
        write_json(scratch / TALLY, _tally(verdicts))


def _join(folders: list[Path], name: str, schema: Any, out: Path) -> None:
    """The tables of all blocks as one."""
    with stream_table(out / name, schema) as write:
        for folder in folders:
            write(read_columns(folder / name))


def _check_gate(params: Params, library: Library) -> None:
    for name in params.rewrites:
        if (gate := library.style(name).gate) not in params.gate:
            raise StageError(f"rephrase.gate: no limits {gate!r}, which the style {name} of rephrase.rewrites names")


def _judged(
    rewrites: list[Rewrite], common: dict[str, frozenset[str]], library: Library, gate: dict[str, GateLimits], job: Job
) -> Judged:
    verdicts: Judged = []
    passed: set[tuple[str, str]] = set()
    with job.progress(len(rewrites), "rewrite", what="judging") as bar:
        for item in rewrites:
            style = library.style(item.job.style)
            text = style.bare(item.text)
            verdict = judge(item.job.text, text, gate[style.gate], common[style.split], language=style.language)
            if item.refused:
                verdict = Verdict(False, f"refused: {item.refused}", verdict.scores)
            elif item.truncated:
                verdict = Verdict(False, "truncated", verdict.scores)
            elif verdict.accepted and (item.job.source_id, item.text) in passed:
                verdict = Verdict(False, "duplicate", verdict.scores)
            if verdict.accepted:
                passed.add((item.job.source_id, item.text))
            verdicts.append((item, verdict))
            bar.update()
    return verdicts


def _document(item: Rewrite, source: dict[str, Any], library: Library) -> dict[str, Any]:
    name, language = item.job.style, library.style(item.job.style).language
    return {
        **{column: source[column] for column in COLUMNS},
        "id": f"rephrase/{name}/{item.job.number}/{source['id']}",
        "text": item.text,
        "source": f"rephrase/{name}",
        "origin": source["id"],
        "attribution": f"{source['attribution']}; {'translated' if language else 'rephrased'} by a language model",
        "language": language or source["language"],
    }


def _verdict_schema() -> Any:
    import pyarrow as pa

    texts = ("source_id", "style", "perspective", "gate", "source_text", "rewrite", "reason")
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
            "style": item.job.style,
            "perspective": item.job.perspective,
            "gate": library.style(item.job.style).gate,
            "number": item.job.number,
            "source_text": item.job.text,
            "rewrite": item.text,
            "reason": verdict.reason,
            "accepted": verdict.accepted,
            **verdict.scores,
        }
        for item, verdict in verdicts
    ]


def _tally(verdicts: Judged) -> dict[str, float]:
    """Counts and sums, which add up over blocks; a refusal's own words are in the verdicts, not in its reason here."""
    accepted = [(item, verdict) for item, verdict in verdicts if verdict.accepted]
    answered = [verdict for item, verdict in verdicts if not item.refused]
    tally = {
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
    return tally | styles | {f"{REJECTED}{reason}": count for reason, count in reasons.items()}


def _figures(tally: Mapping[str, float]) -> Metrics:
    tally = Counter(tally)
    sums = ("rewrites", "accepted", "accepted_characters", "generated_tokens")
    figures: Metrics = {name: float(tally[name]) for name in sums}
    if tally["accepted"]:
        figures |= {
            "accepted_share": tally["accepted"] / tally["rewrites"],
            "mean_similarity": tally["similarity"] / tally["answered"],
            "mean_copied_of_accepted": tally["copied"] / tally["accepted"],
        }
    for name in sorted(name for name in tally if name.startswith("style/")):
        style = name.removeprefix("style/")
        figures[f"accepted_share/{style}"] = tally[f"accepted/{style}"] / tally[name]
    for name in sorted(name for name in tally if name.startswith(REJECTED)):
        figures[name] = float(tally[name])
    return figures


if __name__ == "__main__":
    main(run, SECTION)
