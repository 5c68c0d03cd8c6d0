"""Token shards: curated and rephrased documents as token ids, one file per domain, held-out documents apart.

The figures say what compressors make of the same held-out text: the yardstick for bits per byte.
`k2core/data/rows/order.py` says which documents a shard holds, and in which order.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from k2core.corpus.workers import Corpus, map_shards
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
    params: Params, corpus: Corpus, curated: Path, rephrased: Path, questions: Path, recall: Path, tokenizer: Path,
    out: Path, job: Job,
) -> Metrics:  # fmt: skip
    """Write shards and manifest; figures are yardsticks, and tokens, documents, bytes per token by split and domain.

    The tokens of a block of documents are in `job.scratch` once it is done, and are not made again.
    """
    from k2core.chat.tokenizer import Tokenizer
    from k2core.data.rows.encoding import Encoded, Encoding
    from k2core.data.rows.order import QUESTIONS, RECALL, fitting, in_order
    from k2core.data.rows.shards import SPLITS, write_shards
    from k2core.evals.compressors import yardsticks
    from k2core.storage import count_rows, dvc_md5

    tok = Tokenizer.load(tokenizer)
    order = in_order(curated, rephrased, questions, recall)
    groups = order.groups
    for split in SPLITS:
        if not any(key[0] == split for key in groups):
            raise StageError(f"{curated}/documents.parquet: no document of split {split}; look at curate's figures")
    rewrites = count_rows(rephrased / "documents.parquet")
    asked, recalled = (len(groups.get(("train", domain), ())) for domain in (QUESTIONS, RECALL))
    count = sum(map(len, groups.values()))
    job.say(f"{count:,} documents, {rewrites:,} of them rephrased and {asked:,} questions, to token ids")

    blocks = {block.name: block for block in order.blocks}
    work = Encoding(blocks, tokenizer, job.scratch / "encoded")
    left = [name for name in blocks if not (work.folder / name).exists()]
    total, waiting = (sum(blocks[name].rows for name in names) for names in (blocks, left))
    with job.progress(total, "document", total - waiting) as bar:
        for name, _ in map_shards(work, left, corpus, job.scratch / "workers"):
            bar.update(blocks[name].rows)
    encoded = Encoded(order, work.folder, tok.vocab_size)
    for id in encoded.aside:
        job.say(f"{id}: killed its process, so it has the tokens of an empty text")
    for (split, domain), group in groups.items():
        if split == "heldout":
            groups[split, domain] = group.take(fitting(encoded.lengths(group), params.max_heldout_tokens))
    manifest = write_shards(
        out,
        (document for key, group in groups.items() for document in encoded.documents(*key, group)),
        vocab_size=tok.vocab_size,
        eos_id=tok.eos_id,
        tokenizer=dvc_md5(tokenizer),
    )
    figures: Metrics = {"documents/rephrased": float(rewrites), "documents/questions": float(asked)}
    figures["documents/recall"] = float(recalled)
    figures |= {"documents/set_aside": float(len(encoded.aside))} if encoded.aside else {}
    for split in SPLITS:
        if not manifest[split]:
            raise StageError(f"{curated}: no {split} document fits; raise tokenize.max_heldout_tokens")
        for domain, sums in manifest[split].items():
            figures[f"tokens/{split}/{domain}"] = float(sums["tokens"])
            figures[f"documents/{split}/{domain}"] = float(sums["documents"])
            figures[f"bytes_per_token/{split}/{domain}"] = sums["bytes"] / sums["tokens"]
    job.say("what xz and zstd make of the held-out text")
    heldout = {
        domain: encoded.texts(group) for (split, domain), group in groups.items() if split == "heldout" and len(group)
    }
    training = {
        domain: encoded.texts(encoded.first(groups["train", domain], params.yardstick_bytes))
        for domain in heldout
        if ("train", domain) in groups
    }
    return figures | yardsticks(heldout, training, params.yardstick_bytes)


if __name__ == "__main__":
    main(run, SECTION)
