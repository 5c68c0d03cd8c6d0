"""Knowledge and mathematics rephrased by an LLM behind a fidelity gate (K2 §2.2).

A sample of the curated training documents is rewritten in the styles and perspectives of the folder `styles/`, long
ones chunk by chunk; documents in other languages are translated. Every rewrite is judged against its source; the
verdicts are kept with their scores, the accepted rewrites become documents. The curated table is read a block at a
time; while one is judged, the next one is asked. A killed run continues after the finished blocks, and within one
from its replay cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from k2core.corpus.blocks import Block, blocks_of, documents_of, tables_of
from k2core.corpus.documents import document_schema
from k2core.corpus.workers import Corpus, map_shards
from k2core.llm.client import LLM
from k2core.llm.config import LLMConfig, own_llm
from k2core.machine import Compute
from k2core.recipe import Section
from k2core.stage import Job, Metrics, StageError, main
from k2core.storage import fraction_of, parse_json, stream_table, write_json
from k2core.synthesis.fidelity.gate import LONGEST, GateLimits
from k2core.synthesis.rephrasing.forecast import Forecast, forecast
from k2core.synthesis.rephrasing.judging import (
    DOCUMENTS,
    REJECTED,
    TALLY,
    VERDICTS,
    Judging,
    parts_of,
    tally,
    verdict_schema,
    write_rewrites,
)
from k2core.synthesis.rephrasing.linked import Titles
from k2core.synthesis.rephrasing.rewriting import Draw, Row, Share, expected_tokens, rewrite_all
from k2core.synthesis.rephrasing.styles import Library, load_styles

if TYPE_CHECKING:
    from tqdm import tqdm

SECTION = "rephrase"
SPLITS = {"train": ("train",), "foreign": ("train", "foreign")}
"""Split of a style's documents → the splits in which a word in lower case is no name."""
LEXICON = 2**18
"""Documents, about, whose words are looked at, where there are more."""


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


def run(
    params: Params, llm: LLMConfig, compute: Compute, corpus: Corpus, curated: Path, styles: Path, out: Path, job: Job
) -> Metrics:
    """Write the accepted rewrites as documents, and every verdict."""
    llm = llm.with_own(params.llm, "rephrase.llm")
    compute.apply()
    library = load_styles(styles)
    if all(share.documents == 0 for share in params.rewrites.values()):
        job.say("skipped: rephrase.rewrites asks for no document; the tables are empty")
        _join([], out)
        return _figures(tally([]))
    blocks = blocks_of("curated", curated / "documents.parquet")
    _check_gate(params, library)
    linked = any(library.style(name).joint for name, share in params.rewrites.items() if share.documents != 0)
    titles = Titles(blocks, params.min_characters, params.max_characters) if linked else None
    draw = Draw(library, params.rewrites, compute.seed, titles)
    common = job.scratch / "common.json"
    write_json(common, _look(blocks, draw, params, library))
    work = _plan(blocks, draw, params, library, llm, job)
    judging = Judging(job.scratch / "asked", common, library, params.gate, job.scratch / "judged")
    asked = [judging.asked / planned.block.name for planned in work]

    def ask(model: LLM, number: int, bar: tqdm) -> None:
        """Publish the rewrites of the block with that number."""
        if asked[number].exists():
            return
        if len(work) > 1:
            job.say(f"block {number + 1} of {len(work)}: {work[number].cost.sentence()}")
        rows = _fitting(documents_of(work[number].block), params)
        rewrites = rewrite_all(
            model, draw.jobs(rows, params.chunk_tokens), library, temperature=params.temperature,
            seed=compute.seed, context_tokens=params.context_tokens, bar=bar,
        )  # fmt: skip
        write_rewrites(asked[number], rewrites, rows)
        if asked[number] == asked[-1]:
            bar.close()  # with the time that the asking took

    def judge(number: int, bar: tqdm) -> None:
        """Judge what was asked, from the block with that number on."""
        waiting = [part for part in parts_of(asked[number:]) if not (judging.out / part).exists()]
        for _, count in map_shards(judging, waiting, corpus, job.scratch / "workers"):
            bar.update(count)

    done = sum(planned.cost.requests for planned, folder in zip(work, asked, strict=True) if folder.exists())
    finished = [judging.out / part for part in parts_of(asked) if (judging.out / part).exists()]
    judged = int(sum(_tally_of(folder)["rewrites"] for folder in finished))
    with (
        LLM.open(llm, compute, job.answers) as model,
        ThreadPoolExecutor(1) as thread,
        job.progress(sum(planned.cost.requests for planned in work), "chunk", done) as chunks,
        job.progress(sum(planned.rewrites for planned in work), "rewrite", judged, "judging") as rewrites,
    ):
        try:
            answers = [thread.submit(ask, model, number, chunks) for number in range(len(work))]
            for number, answered in enumerate(answers):
                answered.result()
                judge(number, rewrites)
        finally:
            model.stop()
            thread.shutdown(cancel_futures=True)
    folders = [judging.out / part for part in parts_of(asked)]
    counts: Counter[str] = Counter()
    for folder in folders:
        counts.update(_tally_of(folder))
    if not counts["accepted"]:
        _join(folders, job.scratch)
        reasons = {name.removeprefix(REJECTED): number for name, number in counts.items() if name.startswith(REJECTED)}
        most = ", ".join(f"{reason} {number:.0f}" for reason, number in Counter(reasons).most_common(3))
        raise StageError(
            f"none of {counts['rewrites']:.0f} rewrites passed the gate ({most}, see {job.scratch / VERDICTS}); "
            "rewrite more, loosen rephrase.gate or choose a better llm.model"
        )
    _join(folders, out)
    return _figures(counts)


class _Planned(NamedTuple):
    """A block with documents to rewrite."""

    block: Block
    rewrites: int
    cost: Forecast


def _plan(
    blocks: list[Block], draw: Draw, params: Params, library: Library, llm: LLMConfig, job: Job
) -> list[_Planned]:
    """The second pass: what each block will cost; what all do is said."""
    work: list[_Planned] = []
    documents = 0
    for block in blocks:
        if jobs := draw.jobs(_fitting(documents_of(block), params), params.chunk_tokens):
            cost = forecast(
                sum(len(item.chunks) for item in jobs), *expected_tokens(jobs, library, params.context_tokens), llm
            )
            work.append(_Planned(block, len(jobs), cost))
            documents += len({item.source_id for item in jobs})
    costs = [planned.cost for planned in work]
    whole = forecast(
        sum(cost.requests for cost in costs), sum(cost.prompt_tokens for cost in costs),
        sum(cost.output_tokens for cost in costs), llm,
    )  # fmt: skip
    rewrites, styles = sum(planned.rewrites for planned in work), len(draw.shares)
    job.say(f"{rewrites} rewrites of {documents} documents in {styles} styles: {whole.sentence()}")
    return work


def _tally_of(folder: Path) -> dict[str, float]:
    counts: dict[str, float] = parse_json((folder / TALLY).read_text(encoding="utf-8"))
    return counts


def _fitting(rows: list[Row], params: Params) -> list[Row]:
    return [row for row in rows if params.min_characters <= len(row["text"]) <= params.max_characters]


def _look(blocks: list[Block], draw: Draw, params: Params, library: Library) -> dict[str, list[str]]:
    """The first pass: which documents are drawn. Returns the words that are no names, by the split of a style.

    The words are those of all documents, or of about `LEXICON` of them, drawn by hash, because a vocabulary grows
    without end: by the 0.55th power of the text in the laptop corpus (Heaps' law).
    """
    from k2core.synthesis.fidelity.facts import common_words

    domains = {library.style(name).domain for name in draw.shares}
    common = {split: frozenset[str]() for split in SPLITS}
    share = LEXICON / sum(block.rows for block in blocks) if blocks else 1.0
    for block in blocks:
        rows = documents_of(block)
        draw.see(_fitting(rows, params))
        read = [row for row in rows if row["domain"] in domains and fraction_of(f"words/{row['id']}") < share]
        for split, splits in SPLITS.items():
            common[split] |= common_words(row["text"] for row in read if row["split"] in splits)
    draw.check()
    return {split: sorted(words) for split, words in common.items()}


def _join(folders: list[Path], out: Path) -> None:
    """The tables of all parts as one each."""
    for name, schema in ((DOCUMENTS, document_schema()), (VERDICTS, verdict_schema())):
        with stream_table(out / name, schema) as write:
            for table in tables_of(folder / name for folder in folders):
                write(table)


def _check_gate(params: Params, library: Library) -> None:
    for name in params.rewrites:
        if (gate := library.style(name).gate) not in params.gate:
            raise StageError(f"rephrase.gate: no limits {gate!r}, which the style {name} of rephrase.rewrites names")


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
