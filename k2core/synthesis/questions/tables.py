"""The pairs of each block of articles as a folder of tables, and those of all blocks as one table.

Pairs are numbered maker by maker and, of a maker, block by block, so numbers do not depend on where blocks end.

Shapes: N pairs of all blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from k2core.corpus.blocks import tables_of
from k2core.corpus.curation import CONTAMINATED, Contamination, Found
from k2core.corpus.documents import COLUMNS, document_schema
from k2core.storage import count_rows, publish, stream_table
from k2core.storage.digest import digest_64
from k2core.synthesis.questions.grammar import Question
from k2core.synthesis.questions.pairs import ACCEPTED, GRAMMAR, MODEL, Outcome, Pair, Row
from k2core.synthesis.questions.problems import SOLVED, WORKED

if TYPE_CHECKING:
    import numpy as np

MAKERS = (GRAMMAR, MODEL, SOLVED, WORKED)
_BY = {
    GRAMMAR: "question made by grammar",
    MODEL: "question and answer made by a language model",
    SOLVED: "solved by a language model",
    WORKED: "as question and answer",
}
_DUPLICATE = "duplicate"
_BATCH = 1024
"""Rows that are dictionaries at once: each has its passage, which several pairs share."""


def write_block(
    folder: Path, outcomes: Sequence[Outcome], sources: Mapping[str, Row], found: Mapping[Pair, Question]
) -> None:
    """Publish a block's pairs, a table for each maker that made some.

    Args:
        sources: the documents that they were made from, by id.
        found: what the grammar knows of its own.
    """
    with publish(folder) as scratch:
        scratch.mkdir()
        for maker in MAKERS:
            if own := [outcome for outcome in outcomes if outcome.pair.maker == maker]:
                rows = (_row(outcome, sources[outcome.pair.source_id], found.get(outcome.pair)) for outcome in own)
                _write(_file(scratch, maker), rows)


def _row(outcome: Outcome, source: Row, question: Question | None) -> Row:
    pair = outcome.pair
    return {
        **{name: source[name] for name in COLUMNS},
        "id": f"questions/{pair.maker}/{pair.source_id}",
        "text": pair.text,
        "source": f"questions/{pair.maker}",
        "origin": pair.source_id,
        "attribution": f"{source['attribution']}; {_BY[pair.maker]}",
        "maker": pair.maker,
        "passage": pair.passage,
        "question": pair.question,
        "answer": pair.answer,
        "reason": outcome.reason,
        "agreed": outcome.agreed,
        "kind": question and question.kind,
        "sentence": question and question.sentence,
    }


def _write(path: Path, rows: Iterable[Row]) -> None:
    import pyarrow as pa

    schema = pa.schema([*_rejected_schema(), ("kind", pa.string()), ("sentence", pa.string())])
    waiting: list[Row] = []
    with stream_table(path, schema) as write:
        for row in rows:
            waiting.append(row)
            if len(waiting) == _BATCH:
                write(pa.Table.from_pylist(waiting, schema))
                waiting.clear()
        write(pa.Table.from_pylist(waiting, schema))


def _rejected_schema() -> Any:
    import pyarrow as pa

    texts = ("maker", "passage", "question", "answer", "reason")
    return document_schema(*((name, pa.string()) for name in texts), ("agreed", pa.int64()))


def _file(folder: Path, maker: str) -> Path:
    return folder / f"{maker}.parquet"


def answers_in(folder: Path, samples: int) -> int:
    """Answers of the LLM that the pairs of a finished block took, of which a problem has so many `samples`."""
    made, solved = (_file(folder, maker) for maker in (MODEL, SOLVED))
    return (count_rows(made) if made.exists() else 0) + samples * (count_rows(solved) if solved.exists() else 0)


def grammar_pairs(folders: Sequence[Path]) -> Iterator[list[tuple[Pair, Question]]]:
    """The grammar's pairs of all blocks, in parts."""
    for table in tables_of(_file(folder, GRAMMAR) for folder in folders):
        pairs = []
        for row in table.to_pylist():
            pair = Pair(GRAMMAR, row["origin"], row["passage"], row["question"], row["answer"])
            pairs.append((pair, Question(row["question"], row["answer"], row["kind"], row["sentence"])))
        yield pairs


def join_blocks(folders: Sequence[Path], search: Contamination | None, out: Path) -> Counter[tuple[str, str]]:
    """Write the accepted pairs as documents into `out`, and the rejected ones with what was wrong.

    Of accepted pairs that say the same, the first stays. Eight bytes of a pair are in memory.

    Args:
        search: passages that no pair may hold; None where there are no blocks.

    Returns:
        How many pairs a maker has with a reason, `ACCEPTED` included.
    """
    import pyarrow as pa

    counts: Counter[tuple[str, str]] = Counter()
    repeated_N = _repeated(folders)
    contaminated = _contaminated(folders, repeated_N, search) if search else set()
    with (
        stream_table(out / "documents.parquet", document_schema()) as write_accepted,
        stream_table(out / "rejected.parquet", _rejected_schema()) as write_rejected,
    ):
        for first, table in _numbered(folders):
            places = range(first, first + table.num_rows)
            reasons = [
                _DUPLICATE if repeated_N[place] else CONTAMINATED if place in contaminated else reason
                for place, reason in zip(places, table["reason"].to_pylist(), strict=True)
            ]
            ids = [f"{id}#{place}" for id, place in zip(table["id"].to_pylist(), places, strict=True)]
            for name, values in (("id", ids), ("reason", reasons)):
                table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.string()))
            accepted = pa.array([reason == ACCEPTED for reason in reasons], pa.bool_())
            write_accepted(table.filter(accepted))
            write_rejected(table.filter(pa.compute.invert(accepted)))
            counts.update(zip(table["maker"].to_pylist(), reasons, strict=True))
    return counts


def _numbered(folders: Sequence[Path]) -> Iterator[tuple[int, Any]]:
    """All pairs, as tables with the number of their first row."""
    first = 0
    for table in tables_of(_file(folder, maker) for maker in MAKERS for folder in folders):
        yield first, table
        first += table.num_rows


def _repeated(folders: Sequence[Path]) -> np.ndarray:
    """Which accepted pairs say what an earlier one says, shape (N,): by 64 bits of the digest of their texts."""
    import numpy as np

    digests, accepted = [np.empty(0, np.uint64)], [np.empty(0, bool)]
    for _, table in _numbered(folders):
        digests.append(np.array([digest_64(text) for text in table["text"].to_pylist()], np.uint64))
        accepted.append(np.array([reason == ACCEPTED for reason in table["reason"].to_pylist()], bool))
    repeated_N = np.concatenate(accepted)
    places = np.flatnonzero(repeated_N)
    _, firsts = np.unique(np.concatenate(digests)[places], return_index=True)
    repeated_N[places[firsts]] = False
    return repeated_N


def _contaminated(folders: Sequence[Path], repeated_N: np.ndarray, search: Contamination) -> set[int]:
    """The numbers of the accepted pairs, each counted once, that hold a passage."""

    def accepted() -> Iterator[list[tuple[int, str]]]:
        for first, table in _numbered(folders):
            rows = zip(table["text"].to_pylist(), table["reason"].to_pylist(), strict=True)
            own = ((place, text) for place, (text, reason) in enumerate(rows, first) if reason == ACCEPTED)
            yield [(place, text) for place, text in own if not repeated_N[place]]

    found: Found[int] = Found({}, [], Counter())
    for pairs in accepted():
        more = search.look(pairs)
        found.items |= more.items
        found.suspects += more.suspects
        found.seen.update(more.seen)
    return set(search.rejections((pair for pairs in accepted() for pair in pairs), found))
