"""Documents that can only be continued by reading back: what teaches a small model to copy.

Each is made from one training document, whose words it borrows: passages that return, lists, records and tables with
questions over them. They are a domain of the mixture; nothing of it is held out. `evals` measures copying on held-out
text and on random tokens after every phase. K2's report has no such data: at its scale text alone teaches it.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from k2core.corpus.blocks import Blocks, blocks_of
from k2core.corpus.curation import TRAIN
from k2core.corpus.documents import COLUMNS, document_schema, sample
from k2core.machine import Compute
from k2core.recipe import Section, modules_in
from k2core.stage import Job, Metrics, StageError, main
from k2core.storage import write_table

SECTION = "recall"


class Amount(Section):
    """How many documents of a kind, and how long."""

    documents: int = Field(ge=0, description="documents of this kind")
    characters: int = Field(ge=100, description="characters per document, roughly; best is what fills a row")


class Params(Section):
    """Which documents are made."""

    kinds: dict[str, Amount] = Field(description="by kind, a file of k2core/synthesis/recall/kinds")


def run(params: Params, compute: Compute, curated: Path, out: Path, job: Job) -> Metrics:
    """Write `documents.parquet`, in the columns of any document."""
    from random import Random

    import numpy as np

    from k2core.synthesis.values import Values

    kinds = modules_in("k2core.synthesis.recall.kinds")
    if unknown := sorted(set(params.kinds) - set(kinds)):
        raise StageError(f"recall.kinds: no kind {', '.join(unknown)}; there are {', '.join(kinds)}")
    table = Blocks(blocks_of("curated", curated / "documents.parquet"))
    english = [  # numbers and ids of all, texts of the chosen
        (block.first + number, row["id"])
        for block in table.blocks
        for number, row in enumerate(block.read(["id", "text", "language", "split"]).to_pylist())
        if row["split"] == TRAIN and row["language"] == "en" and len(row["text"].split()) > 20
    ]
    total = sum(amount.documents for amount in params.kinds.values())
    job.say(f"{total:,} documents from {len(english):,} training documents")
    made, figures = [], {"documents": float(total)}
    with job.progress(total, "document") as bar:
        for kind, amount in params.kinds.items():
            count = amount.documents
            if not english and count:
                raise StageError(f"{curated}: no English training document to make {kind} from; set its documents to 0")
            figures[f"documents/{kind}"] = float(count)
            chosen = sample(english, count, lambda place, kind=kind: f"recall/{kind}/{place[1]}")
            numbers = np.array([number for number, _ in chosen], np.int64)
            sources = {name: table.values(numbers, name) for name in COLUMNS}
            for number in range(count):
                source = {name: values[number % len(chosen)] for name, values in sources.items()}
                random = Random(f"{compute.seed}/recall/{kind}/{number}")
                text = kinds[kind].make(random, Values([source["text"]]), source["text"], amount.characters)
                made.append(
                    {**{name: source[name] for name in COLUMNS}, "id": f"recall/{kind}/{source['id']}#{number}",
                     "text": text, "source": f"recall/{kind}", "domain": "recall", "origin": source["id"],
                     "attribution": f"{source['attribution']}; rearranged as {kind}"}
                )  # fmt: skip
                bar.update()
    write_table(out / "documents.parquet", made, document_schema())
    return figures | {"characters": float(sum(len(row["text"]) for row in made))}


if __name__ == "__main__":
    main(run, SECTION)
