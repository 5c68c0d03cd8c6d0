"""Byte-level BPE with K2's control tokens, learnt from the curated training documents.

Every domain gives the same number of characters, as far as it has them, so that the vocabulary serves code and
mathematics as well as prose.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from k2core.recipe import Section
from k2core.stage import Job, Metrics, StageError, main

SECTION = "train_tokenizer"


class Params(Section):
    """Size of the vocabulary and of the text it is learnt from."""

    vocab_size: int = Field(ge=300, description="entries, control tokens included; must equal model.vocab_size")
    characters_per_domain: int = Field(ge=1000, description="text read of each domain, at most")


def run(params: Params, curated: Path, out: Path, job: Job) -> Metrics:
    """Train on the split `train`; figures are bytes per token on held-out text, by domain."""
    from array import array
    from random import Random

    import numpy as np
    import pyarrow.compute as pc

    from k2core.chat.jinja_template import CHAT_TEMPLATE
    from k2core.chat.tokenizer import Tokenizer
    from k2core.corpus.blocks import Blocks, blocks_of
    from k2core.storage import write_text

    table = Blocks(blocks_of("curated", curated / "documents.parquet"))
    training: dict[str, array[int]] = {}  # numbers and lengths of all texts, for the texts of a few
    lengths = array("q")
    for block in table.blocks:
        read = block.read(["text", "domain", "split"])
        lengths.extend(pc.utf8_length(read["text"]).to_pylist())
        for row, (domain, split) in enumerate(zip(read["domain"].to_pylist(), read["split"].to_pylist(), strict=True)):
            if split == "train":
                training.setdefault(domain, array("q")).append(block.first + row)
    rows: list[int] = []
    cuts: list[int] = []
    for domain, numbers in sorted(training.items()):
        Random(f"train_tokenizer/{domain}").shuffle(numbers)
        left = params.characters_per_domain
        for number in numbers:
            if left <= 0:
                break
            rows.append(number)
            cuts.append(left)
            left -= lengths[number]
    texts = table.values(np.array(rows, np.int64), "text")
    chosen = [text[:cut] for text, cut in zip(texts, cuts, strict=True)]
    job.say(f"{params.vocab_size} entries from {sum(map(len, chosen)):,} characters of {len(training)} domains")
    try:
        tokenizer = Tokenizer.train(chosen, params.vocab_size)
    except ValueError as error:
        raise StageError(f"{curated}: {error}; see section train_tokenizer") from None
    tokenizer.save(out)
    write_text(out / "chat_template.jinja", CHAT_TEMPLATE)
    figures = {"vocab_size": float(tokenizer.vocab_size), "characters": float(sum(map(len, chosen)))}
    sizes: dict[str, list[int]] = {}
    for block in table.blocks:
        read = block.read(["text", "domain", "split"])
        for domain in pc.unique(read["domain"]).to_pylist():
            there = pc.and_(pc.equal(read["split"], "heldout"), pc.equal(read["domain"], domain))
            if documents := read["text"].filter(there).to_pylist():
                of_domain = sizes.setdefault(domain, [0, 0])
                of_domain[0] += sum(len(text.encode()) for text in documents)
                of_domain[1] += sum(map(len, tokenizer.encode_batch(documents)))
    for domain, (size, tokens) in sorted(sizes.items()):
        figures[f"bytes_per_token/{domain}"] = size / max(1, tokens)
    return figures


if __name__ == "__main__":
    main(run, SECTION)
