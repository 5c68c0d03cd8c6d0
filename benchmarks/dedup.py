"""Near duplicates: ours against datatrove's four MinHash steps, and what is found of planted pairs.

Both read the same JSON lines and write those that stay as JSON lines, on one core: ours signs every document and sorts
its bands, datatrove runs its steps by its `LocalPipelineExecutor` with one worker. Both have 14 buckets of 8 hashes of
5-grams, without datatrove's writing of every number as 0. datatrove splits words by spaCy unless told otherwise; the
second entry tells it to split at spaces, as ours does.

A planted pair is a text of random words and a copy with words replaced, evenly apart, so that each changes exactly 5
of the text's 5-grams: its Jaccard similarity is known without being computed.
"""

from __future__ import annotations

import contextlib
import io
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from benchmarks.harness import Entry, alternate, compare
from benchmarks.scale import LAPTOP, Scale
from k2core.corpus.duplicates.clusters import deduplicate
from k2core.corpus.duplicates.dedup import MinhashConfig, attributes
from k2core.corpus.sources.builtin.wikipedia import Source
from k2core.corpus.sources.builtin.wikipedia import documents as wikipedia
from k2core.recipe import load_section, read_recipe

TOPIC = "dedup"
DUPLICATE, DIFFERENT = 0.8, 0.5
"""Jaccard similarities at which goals are set."""
RECALL, FALSE_POSITIVES, SPEED = 0.92, 0.01, 5.0
"""The goals: share found at `DUPLICATE`, share found at `DIFFERENT`, documents per second against datatrove's."""
NGRAM, SHINGLES = 5, 180
"""Words in a shingle; shingles of a planted text, about."""
FILE = "documents.jsonl"

Rows = Sequence[tuple[str, str]]
Dedup = Callable[[Path], set[str]]
"""Folder with `FILE` → ids of what was dropped."""


def run(scale: Scale) -> list[Entry]:
    """Documents per second on Wikipedia summaries, two peers; recall and false positives of planted pairs."""
    count = scale.documents[-1] // 2
    with written(real(count)) as folder:
        times = alternate({name: partial(dedup, folder) for name, dedup in WAYS.items()}, rounds=scale.few_rounds,
                          seconds=0)  # fmt: skip
    rates = {name: [count / second for second in seconds] for name, seconds in times.items()}
    entries = [
        compare(
            f"near duplicates of {count:,} documents, datatrove's {words}", rates["ours"], rates[peer],
            unit="documents/s", ratio_of="ours / peer", better="higher", goal=goal, topic=TOPIC,
            note="datatrove's MinHash steps, 1 worker; Wikipedia summaries, JSON lines to JSON lines",
        )
        for peer, words, goal in (("datatrove", "own words", SPEED), ("datatrove, spaces", "words at spaces", None))
    ]  # fmt: skip
    for jaccard, name, goal, better in (
        (DUPLICATE, "recall", RECALL, "higher"), (DIFFERENT, "false positives", FALSE_POSITIVES, "lower"),
    ):  # fmt: skip
        found, peers = share_found(ours, jaccard, scale.pairs), share_found(datatrove_spaces, jaccard, scale.pairs // 4)
        entries.append(
            compare(
                f"{name}, planted pairs at Jaccard {jaccard}", [found], [goal], unit="of the pairs",
                ratio_of="ours / peer", better=better, goal=1.0, topic=TOPIC,
                note=f"the goal; {scale.pairs:,} pairs. datatrove's finds {peers:.3f} of {scale.pairs // 4:,}",
            )
        )  # fmt: skip
    return entries


def real(count: int) -> Rows:
    """Wikipedia summaries, `(id, text)`."""
    return [(document.id, document.text) for document in wikipedia(Source(limit=count, translations={}))]


def planted(jaccard: float, pairs: int) -> Rows:
    """Pairs `a<i>`, `b<i>` of that Jaccard similarity, rounded to what replacing whole words gives (within 0.005)."""
    per_edit = NGRAM * (1 + jaccard) / (1 - jaccard)
    edits = max(1, round(SHINGLES / per_edit))
    length = round(edits * per_edit) + NGRAM - 1
    rows = []
    for pair in range(pairs):
        rng = random.Random(f"{jaccard}/{pair}")
        words = [f"w{rng.randrange(10**6)}" for _ in range(length)]
        copy = list(words)
        for edit in range(edits):
            copy[edit * (length - NGRAM) // edits + NGRAM - 1] += "x"
        rows += [(f"a{pair}", " ".join(words)), (f"b{pair}", " ".join(copy))]
    return rows


def share_found(dedup: Dedup, jaccard: float, pairs: int) -> float:
    """Share of planted pairs of which one document went."""
    with written(planted(jaccard, pairs)) as folder:
        return len({name[1:] for name in dedup(folder)}) / pairs


@contextlib.contextmanager
def written(rows: Rows) -> Iterator[Path]:
    """A folder with the documents as JSON lines."""
    with tempfile.TemporaryDirectory() as name:
        _write(Path(name) / FILE, ({"id": name, "text": text} for name, text in rows))
        yield Path(name)


def ours(folder: Path) -> set[str]:
    """Signatures and search of `k2core.corpus.duplicates`, with the laptop recipe's parameters."""
    config = load_section(MinhashConfig, LAPTOP, "tag", "minhash")
    min_similarity = read_recipe(LAPTOP)["curate"]["min_similarity"]
    with tempfile.TemporaryDirectory() as out:
        rows = [orjson.loads(line) for line in (folder / FILE).read_bytes().splitlines()]
        prints = [{"id": row["id"], "quality": 1.0, **attributes(row["text"], config)} for row in rows]
        gone = set(deduplicate(prints, min_similarity, Path(out)))
        _write(Path(out) / FILE, (row for row in rows if row["id"] not in gone))
    return gone


def datatrove(folder: Path, language: Any = None) -> set[str]:
    """datatrove's signatures, buckets, clusters and filter; `language` is its English unless a tokenizer is given."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig as DatatroveConfig
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.text import TextNormConfig
    from datatrove.utils.typeshelper import Languages

    recipe = load_section(MinhashConfig, LAPTOP, "tag", "minhash")
    config = DatatroveConfig(
        n_grams=recipe.ngram_words, num_buckets=recipe.buckets, hashes_per_bucket=recipe.hashes_per_bucket,
        seed=recipe.seed, norm_config=TextNormConfig(norm_numbers=False),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as out, _quiet():
        reader = JsonlReader(str(folder), compression=None)
        steps: list[tuple[int, list[Any]]] = [
            (1, [reader, MinhashDedupSignature(f"{out}/signatures", config, language or Languages.english)]),
            (recipe.buckets, [
                MinhashDedupBuckets(f"{out}/signatures", f"{out}/buckets", config=config, lines_to_buffer=-1)
            ]),
            (1, [MinhashDedupCluster(f"{out}/buckets", f"{out}/remove", config, lines_to_buffer=-1)]),
            (1, [
                reader,
                MinhashDedupFilter(f"{out}/remove", JsonlWriter(f"{out}/gone", compression=None), lines_to_buffer=-1),
                JsonlWriter(f"{out}/kept", compression=None),
            ]),
        ]  # fmt: skip
        for number, (tasks, pipeline) in enumerate(steps):
            LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=f"{out}/logs/{number}").run()
        kept = _ids(Path(out) / "kept")
        gone = _ids(Path(out) / "gone")
    if len(kept) + len(gone) != len((folder / FILE).read_bytes().splitlines()):
        raise RuntimeError(f"datatrove gave {len(kept)} + {len(gone)} documents back, which is not what {folder} has")
    return gone


def datatrove_spaces(folder: Path) -> set[str]:
    """The same with words split at spaces."""
    from datatrove.utils.word_tokenizers import WordTokenizer

    class SpacedWords(WordTokenizer):
        def word_tokenize(self, text: str) -> list[str]:
            return text.split()

        def sent_tokenize(self, text: str) -> list[str]:
            raise NotImplementedError("signatures need words only")

        def span_tokenize(self, text: str) -> list[tuple[int, int]]:
            raise NotImplementedError("signatures need words only")

    return datatrove(folder, SpacedWords())


WAYS: dict[str, Dedup] = {"ours": ours, "datatrove": datatrove, "datatrove, spaces": datatrove_spaces}


def _write(path: Path, rows: Iterable[dict[str, str]]) -> None:
    with path.open("wb") as file:
        file.writelines(orjson.dumps(row) + b"\n" for row in rows)


def _ids(folder: Path) -> set[str]:
    return {orjson.loads(line)["id"] for file in folder.glob("*.jsonl") for line in file.read_bytes().splitlines()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """datatrove logs its statistics to standard error."""
    from loguru import logger

    logger.remove()
    with contextlib.redirect_stderr(io.StringIO()):
        yield
        logger.remove()
