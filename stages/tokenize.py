"""Token shards: curated and rephrased documents as token ids, one file a domain, held-out documents apart.

The figures say what compressors make of the same held-out text: the yardstick for bits per byte. Rephrased documents
train beside their sources, in the source's domain and with its quality and rate; questions with answers are the domain
`qa`, of which nothing is held out. The documents of a shard are in a fixed random order, so that any first part of it
is a fair sample.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from k2core.recipe import Section
from k2core.stage import Job, Metrics, StageError, main

SECTION = "tokenize"
QUESTIONS = "qa"
"""The shards' domain of questions with answers."""


class Params(Section):
    """What goes into the shards."""

    max_heldout_tokens: int = Field(ge=1, description="held-out tokens kept of each domain, at most")
    yardstick_bytes: int = Field(
        ge=1, description="training text of each domain that the yardsticks' compressors have seen, at most"
    )


class Text(NamedTuple):
    """A document's text with its score and how often it comes in an epoch."""

    text: str
    quality: float
    rate: float


def run(
    params: Params, curated: Path, rephrased: Path, questions: Path, tokenizer: Path, out: Path, job: Job
) -> Metrics:
    """Write shards and manifest; figures are yardsticks, and tokens, documents, bytes a token by split and domain."""
    from collections.abc import Iterator
    from random import Random

    from k2core.chat.tokenizer import Tokenizer
    from k2core.corpus.rows.compressors import yardsticks
    from k2core.corpus.rows.shards import SPLITS, Document, write_shards
    from k2core.storage import dvc_md5, read_table

    tok = Tokenizer.load(tokenizer)
    groups: dict[tuple[str, str], list[Text]] = {}
    heldout: dict[str, list[str]] = {}
    sources: dict[str, tuple[float, float]] = {}
    for row in read_table(curated / "documents.parquet", ["id", "text", "domain", "split", "quality", "rate"]):
        sources[row["id"]] = row["quality"], row["rate"]
        if row["split"] not in SPLITS:  # what waits for its translation
            continue
        groups.setdefault((row["split"], row["domain"]), []).append(Text(row["text"], row["quality"], row["rate"]))
    rewrites = read_table(rephrased / "documents.parquet", ["text", "domain", "origin"])
    for row in rewrites:
        text = Text(row["text"], *sources.get(row["origin"], (1.0, 1.0)))
        groups.setdefault(("train", row["domain"]), []).append(text)
    asked = read_table(questions / "documents.parquet", ["text"])
    if asked:
        groups["train", QUESTIONS] = [Text(row["text"], 1.0, 1.0) for row in asked]
    for split in SPLITS:
        if not any(key[0] == split for key in groups):
            raise StageError(f"{curated}/documents.parquet: no document of split {split}; look at curate's figures")
    count = sum(map(len, groups.values()))
    job.say(f"{count:,} documents, {len(rewrites):,} of them rephrased and {len(asked):,} questions, to token ids")

    def documents() -> Iterator[Document]:
        with job.progress(count, "document") as bar:
            for (split, domain), texts in sorted(groups.items()):
                Random(f"tokenize/{split}/{domain}").shuffle(texts)
                left = params.max_heldout_tokens if split == "heldout" else None
                for start in range(0, len(texts), 1000):
                    chunk = texts[start : start + 1000]
                    encoded = tok.encode_batch([document.text for document in chunk])
                    for (text, quality, rate), ids in zip(chunk, encoded, strict=True):
                        if left is None or left >= len(ids) + 1:
                            if split == "heldout":
                                heldout.setdefault(domain, []).append(text)
                            yield Document(split, domain, ids, len(text.encode()), quality, rate)
                            left = left and left - len(ids) - 1
                    bar.update(len(chunk))

    manifest = write_shards(
        out, documents(), vocab_size=tok.vocab_size, eos_id=tok.eos_id, tokenizer=dvc_md5(tokenizer)
    )
    figures: Metrics = {"documents/rephrased": float(len(rewrites)), "documents/questions": float(len(asked))}
    for split in SPLITS:
        if not manifest[split]:
            raise StageError(f"{curated}: no {split} document fits; raise tokenize.max_heldout_tokens")
        for domain, sums in manifest[split].items():
            figures[f"tokens/{split}/{domain}"] = float(sums["tokens"])
            figures[f"documents/{split}/{domain}"] = float(sums["documents"])
            figures[f"bytes_per_token/{split}/{domain}"] = sums["bytes"] / sums["tokens"]
    job.say("what xz and zstd make of the held-out text")
    training = {domain: [text.text for text in texts] for (split, domain), texts in groups.items() if split == "train"}
    return figures | yardsticks(heldout, training, params.yardstick_bytes)


if __name__ == "__main__":
    main(run, SECTION)
