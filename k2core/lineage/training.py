"""Which documents the pre-training phases trained on, at which steps: the loader's plan, read instead of trained on.

A phase's batches are a pure function of the shards, the recipe and where the phase before stopped (`PhaseSource`), so
that the plan of a phase that has ended can be made again at any time. What is made here is held against what the
stages left: the bytes of each document in the shards, and the place where each phase stopped (`trainer.json`).

Shapes: D documents, P pieces of documents, N documents of a block.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from k2core.lineage.chain import Chain, main_out, settings
from k2core.lineage.corpus import Corpus
from k2core.recipe import validate
from k2core.storage import StorageError, read_lines
from k2core.training.learner import STATE
from k2core.training.phases import Extension, Phase
from k2core.training.spikes import SKIPPED

if TYPE_CHECKING:
    import numpy as np

    from k2core.data.rows.loader import PhaseSource
    from k2core.tracking.lock import LockedStage


@dataclass(frozen=True)
class Place:
    """A document's place in the shards: tokens `start` up to `end` of the domain's file, its end mark included."""

    split: str
    domain: str
    number: int
    start: int
    end: int


@dataclass(frozen=True)
class Uses:
    """What a phase trained on in one domain, one entry per piece of a document (P pieces).

    Attributes:
        number_P: the document's number in its shard.
        step_P: the step, from 0 within the phase.
        tokens_P: target tokens of the piece.
    """

    number_P: np.ndarray
    step_P: np.ndarray
    tokens_P: np.ndarray


@dataclass(frozen=True)
class PhaseRecord:
    """A phase that has ended: its stage and section of the recipe, the steps left out, what it trained on by domain."""

    stage: str
    phase: Phase
    left_out: set[int]
    uses: dict[str, Uses]

    @property
    def name(self) -> str:
        """The phase's name in the recipe, or the stage's."""
        return self.stage.rpartition("@")[2]

    def tokens(self, domain: str, documents: int) -> np.ndarray:
        """Tokens of each document of a domain that the phase trained on, shape (documents,)."""
        import numpy as np

        uses = self.uses.get(domain)
        if uses is None:
            return np.zeros(documents)
        return np.bincount(uses.number_P, uses.tokens_P, minlength=documents)

    def read(self, domain: str, number: int) -> tuple[int, int]:
        """The tokens and the pieces of one document that the phase trained on."""
        uses = self.uses.get(domain)
        own = uses.tokens_P[uses.number_P == number] if uses else ()
        return int(sum(own)), len(own)

    def steps(self, domain: str, number: int) -> list[int]:
        """The steps that trained on a document, in order."""
        uses = self.uses.get(domain)
        return sorted({*uses.step_P[uses.number_P == number].tolist()}) if uses else []


class Training:
    """The shards and phases behind an artifact.

    Raises:
        StorageError: the shards are not made from the present tables.

    Attributes:
        ids: (split, domain) → the documents of that shard, in its order.
    """

    def __init__(self, chain: Chain) -> None:
        import numpy as np

        from k2core.chat.tokenizer import Tokenizer
        from k2core.data.rows.order import fitting, in_order
        from k2core.data.rows.shards import TokenShards

        tokens, tokenizer = chain.folder("tokenize"), chain.folder("train_tokenizer")
        made = [chain.folder(stage) for stage in ("curate", "rephrase", "questions", "recall")]
        if tokens is None or tokenizer is None or None in made:
            raise StorageError(f"{chain.artifact}: no token shards are behind it, so nothing was trained on documents")
        self.chain, self.shards = chain, TokenShards(tokens)
        self.ids: dict[tuple[str, str], list[str]] = {}
        order = in_order(*(path for path in made if path))
        most = settings(chain.stages["tokenize"])["tokenize"]["max_heldout_tokens"]
        for (split, domain), group in order.groups.items():
            texts = order.values(group.row_N, "text")
            if split == "heldout":
                lengths = [len(ids) + 1 for ids in Tokenizer.load(tokenizer).encode_batch(texts)]
                places = fitting(np.array(lengths), most)
                group, texts = group.take(places), [texts[place] for place in places]
            self._check(split, domain, texts)
            self.ids[split, domain] = order.values(group.row_N, "id")

    def _check(self, split: str, domain: str, texts: list[str]) -> None:
        made = [len(text.encode()) for text in texts]
        there = self.shards.document_bytes(split, domain).tolist() if domain in self.shards.domains(split) else []
        # One that killed its process has the tokens of an empty text.
        if len(made) != len(there) or any(one not in (0, size) for one, size in zip(there, made, strict=True)):
            raise StorageError(
                f"{self.shards.folder}: {split}/{domain} does not hold the documents of the tables that it should be "
                "made of, in their order; run `dvc repro tokenize` with this code"
            )

    def phases(self) -> Iterator[PhaseRecord]:
        """The pre-training phases behind the artifact, in the order they ran.

        Raises:
            StorageError: the model of a phase is not here, or says that the phase took other documents.
        """
        from k2core.data.rows.loader import PhaseSource

        cursor: dict[str, int] = {}
        for stage, phase, seed in self._declared():
            source = PhaseSource(
                self.shards, weights=phase.mixture, steps=phase.steps,
                batch_rows=phase.batch_tokens // phase.context_length, context=phase.context_length, seed=seed,
                cursor=cursor, select=phase.select,
            )  # fmt: skip
            cursor = source.cursor
            left_out = _left_out(self.chain.root / main_out(stage), cursor)
            yield PhaseRecord(stage.name, phase, left_out, self._uses(source, phase, left_out))

    def _declared(self) -> Iterator[tuple[LockedStage, Phase, int]]:
        """Stage, section and seed of each phase: the stages that train on a mixture of the shards.

        SFT and RL replay some text as well; no plan says which.
        """
        shards = main_out(self.chain.stages["tokenize"])
        for stage in self.chain.stages.values():
            sections = settings(stage)
            mixed = [(key, value) for key, value in sections.items() if "mixture" in (value or ())]
            if shards in stage.deps and trains(stage) and mixed:
                ((key, section),) = mixed
                cls = Extension if "rope_scaling" in section else Phase
                yield stage, validate(cls, section, f"dvc.lock: {stage.name}: {key}"), sections["compute"]["seed"]

    def _uses(self, source: PhaseSource, phase: Phase, left_out: set[int]) -> dict[str, Uses]:
        import numpy as np

        pieces: dict[str, list[tuple[int, int, int]]] = {}
        for step in range(phase.steps):
            if step not in left_out:
                for domain, row in source.pieces(step):
                    pieces.setdefault(domain, []).extend((piece.start + 1, step, piece.length) for piece in row)
        found = {}
        for domain, entries in pieces.items():
            # A piece's first target is one token further on than the piece, which may begin at the end mark before.
            first_P, step_P, tokens_P = np.array(entries).T
            ends_D = self.shards.document_ends("train", domain)
            found[domain] = Uses(np.searchsorted(ends_D, first_P, side="right"), step_P, tokens_P)
        return found

    def lengths(self, split: str, domain: str) -> np.ndarray:
        """Tokens of each document of a shard, its end mark counted, shape (documents,)."""
        import numpy as np

        return np.diff(self.shards.document_ends(split, domain), prepend=0)

    def admitted(self, phase: PhaseRecord, place: Place) -> bool:
        """Whether a phase's selection of a domain includes the document."""
        from k2core.data.mixture.pool import ALL, read_pool

        return read_pool(self.shards, place.domain, phase.phase.select).takes(ALL, place.number)

    def place(self, document: str) -> Place | None:
        """A document's place in the shards; None if it is not in them."""
        for (split, domain), ids in self.ids.items():
            if document in ids:
                number = ids.index(document)
                end = int(self.shards.document_ends(split, domain)[number])
                return Place(split, domain, number, end - int(self.lengths(split, domain)[number]), end)
        return None


def trains(stage: LockedStage) -> bool:
    """Whether a stage trains a model: it then has an optimiser."""
    return "optimizer" in settings(stage)


def _left_out(model: Path, cursor: dict[str, int]) -> set[int]:
    """The steps that the phase that made `model` left out, after a check that it took documents up to `cursor`."""
    if not model.exists():
        raise StorageError(f"{model}: not here, and with it which steps were left out; `dvc checkout {model}`")
    state, skipped = model / STATE, model / SKIPPED
    if state.exists() and (taken := json.loads(state.read_text())["documents"]) != cursor:
        raise StorageError(
            f"{state}: the phase took documents up to {taken}, but by the recipe in dvc.lock and this code it takes "
            f"them up to {cursor}; train it again (`dvc repro`)"
        )
    return {row["step"] for row in read_lines(skipped)} if skipped.exists() else set()


def listed(chain: Chain) -> Iterator[str]:
    """Every document that the artifact was trained on, as tab-separated lines with a header, by domain and shard.

    `seen` is how many times in all phases, then each phase: tokens trained on over the document's tokens.
    """
    import numpy as np

    training = Training(chain)
    phases = list(training.phases())
    if not phases:
        raise StorageError(f"{chain.artifact}: no training is behind it")
    about: dict[str, tuple[str, str]] = {}
    for stage in ("curate", "rephrase", "questions", "recall"):
        for _, columns in Corpus(chain).columns(stage, "documents.parquet", ["id", "source", "license"]):
            about |= {name: (source, law) for name, source, law in zip(*columns.values(), strict=True)}
    yield _tsv("document", "domain", "source", "license", "tokens", "seen", *(phase.name for phase in phases))
    for domain in training.shards.domains("train"):
        lengths_D = training.lengths("train", domain)
        tokens = [phase.tokens(domain, len(lengths_D)) for phase in phases]
        seen = np.stack(tokens) / lengths_D
        for number, id in enumerate(training.ids["train", domain]):
            if seen[:, number].any():
                times = [f"{value:.4g}" for value in (seen[:, number].sum(), *seen[:, number])]
                yield _tsv(id, domain, *about[id], str(lengths_D[number]), *times)


def _tsv(*values: str) -> str:
    line = io.StringIO()
    csv.writer(line, delimiter="\t", lineterminator="").writerow(values)
    return line.getvalue()
