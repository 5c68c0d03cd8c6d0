"""Token shards: curated and rephrased documents as token ids, one file per domain, held-out documents apart.

The figures say what compressors make of the same held-out text: the yardstick for bits per byte.
`k2core/data/rows/order.py` says which documents a shard holds, and in which order.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from k2core.recipe import Section
from k2core.stage import Job, Metrics, StageError, main

SECTION = "tokenize"


class Params(Section):
    """What goes into the shards."""

    max_heldout_tokens: int = Field(ge=1, description="held-out tokens kept of each domain, at most")
    yardstick_bytes: int = Field(
        ge=1, description="training text of each domain that the yardsticks' compressors have seen, at most"
    )


def run(
    params: Params, curated: Path, rephrased: Path, questions: Path, recall: Path, tokenizer: Path, out: Path, job: Job
) -> Metrics:
    """Write shards and manifest; figures are yardsticks, and tokens, documents, bytes per token by split and domain."""
    from collections.abc import Iterator

    from k2core.chat.tokenizer import Tokenizer
    from k2core.data.rows.order import QUESTIONS, RECALL, encoded, in_order
    from k2core.data.rows.shards import SPLITS, TokenizedDocument, write_shards
    from k2core.evals.compressors import yardsticks
    from k2core.storage import dvc_md5, read_table

    tok = Tokenizer.load(tokenizer)
    groups = in_order(curated, rephrased, questions, recall)
    for split in SPLITS:
        if not any(key[0] == split for key in groups):
            raise StageError(f"{curated}/documents.parquet: no document of split {split}; look at curate's figures")
    count = sum(map(len, groups.values()))
    rewrites = len(read_table(rephrased / "documents.parquet", ["id"]))
    asked = len(groups.get(("train", QUESTIONS), ()))
    job.say(f"{count:,} documents, {rewrites:,} of them rephrased and {asked:,} questions, to token ids")
    heldout: dict[str, list[str]] = {}

    def documents() -> Iterator[TokenizedDocument]:
        with job.progress(count, "document") as bar:
            for (split, domain), texts in groups.items():
                most = params.max_heldout_tokens if split == "heldout" else None
                for (_, text, quality, rate), ids in encoded(texts, tok, most):
                    bar.update()
                    if ids is None:
                        continue
                    if split == "heldout":
                        heldout.setdefault(domain, []).append(text)
                    yield TokenizedDocument(split, domain, ids, len(text.encode()), quality, rate)

    manifest = write_shards(
        out, documents(), vocab_size=tok.vocab_size, eos_id=tok.eos_id, tokenizer=dvc_md5(tokenizer)
    )
    figures: Metrics = {"documents/rephrased": float(rewrites), "documents/questions": float(asked)}
    figures["documents/recall"] = float(len(groups.get(("train", RECALL), ())))
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
