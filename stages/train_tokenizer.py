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
    from random import Random

    from k2core.chat.jinja_template import CHAT_TEMPLATE
    from k2core.chat.tokenizer import Tokenizer
    from k2core.storage import read_table, write_text

    rows = read_table(curated / "documents.parquet", ["text", "domain", "split"])
    texts: dict[str, dict[str, list[str]]] = {"train": {}, "heldout": {}}
    for row in (row for row in rows if row["split"] in texts):
        texts[row["split"]].setdefault(row["domain"], []).append(row["text"])
    chosen: list[str] = []
    for domain, documents in sorted(texts["train"].items()):
        Random(f"train_tokenizer/{domain}").shuffle(documents)
        left = params.characters_per_domain
        for text in documents:
            if left <= 0:
                break
            chosen.append(text[:left])
            left -= len(text)
    job.say(f"{params.vocab_size} entries from {sum(map(len, chosen)):,} characters of {len(texts['train'])} domains")
    try:
        tokenizer = Tokenizer.train(chosen, params.vocab_size)
    except ValueError as error:
        raise StageError(f"{curated}: {error}; see section train_tokenizer") from None
    tokenizer.save(out)
    write_text(out / "chat_template.jinja", CHAT_TEMPLATE)
    figures = {"vocab_size": float(tokenizer.vocab_size), "characters": float(sum(map(len, chosen)))}
    for domain, documents in sorted(texts["heldout"].items()):
        tokens = sum(map(len, tokenizer.encode_batch(documents)))
        figures[f"bytes_per_token/{domain}"] = sum(len(text.encode()) for text in documents) / max(1, tokens)
    return figures


if __name__ == "__main__":
    main(run, SECTION)
