"""What grading reads of a shard's texts, each once: it is in files then, by domain.

Shapes: N documents of a domain in a shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from k2core.corpus.documents import read_beside
from k2core.corpus.quality import classifier, similarity
from k2core.corpus.quality.judge import Candidate, JudgeConfig, drawn
from k2core.corpus.quality.rules import rules_score
from k2core.corpus.tagging import COLUMNS as ATTRIBUTES
from k2core.corpus.tagging import untagged
from k2core.corpus.workers import Watch
from k2core.storage import publish, read_lines, read_table, write_json, write_lines

_UNREAD = {"digest", "minhash"}
ASIDE = "aside.json"


@dataclass(frozen=True)
class Reading:
    """The work on a documents' table, called with its name: it publishes a folder of that name in `folder`.

    The folder holds a folder for each domain (`Part`) and `aside.json`: the ids of documents that killed a process,
    which are graded as empty texts.
    """

    documents: Path
    attributes: Path
    folder: Path
    line_characters: int
    embedding_characters: int
    judge: JudgeConfig
    seed: int

    def __call__(self, name: str, watch: Watch) -> None:
        rows = read_table(self.documents / name, ["id", "text", "domain"])
        tags = read_beside(
            self.attributes, name, rows, [column for column in ATTRIBUTES if column not in _UNREAD], "tag"
        )
        aside = untagged(self.attributes, name)  # what a signal failed on could fail here too
        killers = [row["id"] for row in rows if watch.kills(row["id"])]
        domains: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        for number, (row, tag) in enumerate(zip(rows, tags, strict=True)):
            row["rules"] = rules_score(row["domain"], tag)
            row["text"] = "" if row["id"] in aside or row["id"] in killers else row["text"]
            domains.setdefault(row["domain"], []).append((number, row))
        with publish(self.folder / name) as scratch:
            scratch.mkdir()
            write_json(scratch / ASIDE, killers)
            for domain, own in domains.items():
                self._write(scratch / domain, [number for number, _ in own], [row for _, row in own], watch)

    def _write(self, folder: Path, numbers: list[int], rows: list[dict[str, Any]], watch: Watch) -> None:
        lines, tokens = list[str](), list[list[int]]()
        for row in rows:
            watch.at(row["id"])
            lines.append(classifier.line_of(row["text"], self.line_characters))
            if watch.deaths:  # one by one, to know at which text a process dies
                tokens += similarity.token_ids([row["text"][: self.embedding_characters]])
        watch.at("")
        if not watch.deaths:
            tokens += similarity.token_ids([row["text"][: self.embedding_characters] for row in rows])
        flat = np.fromiter((id for ids in tokens for id in ids), np.int64)
        candidates = [Candidate(row["id"], row["text"], number) for number, row in enumerate(rows)]
        folder.mkdir()
        (folder / "lines.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        np.save(folder / "rows.npy", np.array(numbers))
        np.save(folder / "rules.npy", np.array([row["rules"] for row in rows]))
        np.save(folder / "folds.npy", np.array([classifier.fold_of(row["id"], self.seed) for row in rows], np.int8))
        np.save(folder / "lengths.npy", np.array([len(ids) for ids in tokens], np.int32))
        np.save(folder / "tokens.npy", flat.astype(np.int32))
        np.save(folder / "counts.npy", similarity.token_counts(flat))
        write_lines(
            folder / "candidates.jsonl",
            (
                {**item._asdict(), "text": item.text[: self.judge.characters]}
                for item in drawn(candidates, self.judge, self.seed)
            ),
        )


@dataclass(frozen=True)
class Part:
    """A domain's documents of a shard, as `Reading` left them.

    Attributes:
        table: the shard's name.
        first: the number of its first document among those of the domain.
    """

    table: str
    folder: Path
    first: int

    def __len__(self) -> int:
        return len(self.rules_N)

    @cached_property
    def rules_N(self) -> np.ndarray:
        """The rules' score of each document."""
        return self._load("rules")

    @property
    def rows_N(self) -> np.ndarray:
        """The row of each in its table."""
        return self._load("rows")

    @property
    def folds_N(self) -> np.ndarray:
        """The half that each belongs to."""
        return self._load("folds")

    @property
    def counts(self) -> np.ndarray:
        """How often each token of the embedding's vocabulary occurs."""
        return self._load("counts")

    @property
    def lines(self) -> list[str]:
        """The words of each, as the classifier reads them."""
        return (self.folder / "lines.txt").read_text(encoding="utf-8").split("\n")[:-1]

    @property
    def tokens(self) -> Sequence[np.ndarray]:
        """The tokens of each, as the embedding reads them."""
        return np.split(self._load("tokens"), self._load("lengths").cumsum()[:-1])

    @property
    def candidates(self) -> list[Candidate]:
        """Those among which the LLM's sample is, with their numbers among the domain's documents."""
        rows = read_lines(self.folder / "candidates.jsonl", Candidate._fields)
        return [Candidate(row["id"], row["text"], self.first + row["number"]) for row in rows]

    def _load(self, name: str) -> np.ndarray:
        values: np.ndarray = np.load(self.folder / f"{name}.npy")
        return values


def parts_of(folder: Path, tables: Sequence[str]) -> dict[str, list[Part]]:
    """Domain → its documents in all shards, in their order."""
    parts: dict[str, list[Part]] = {}
    for table in tables:
        for domain in sorted(entry.name for entry in (folder / table).iterdir() if entry.is_dir()):
            before = parts.setdefault(domain, [])
            first = before[-1].first + len(before[-1]) if before else 0
            before.append(Part(table, folder / table / domain, first))
    return dict(sorted(parts.items()))
