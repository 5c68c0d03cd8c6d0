"""Curation: rules over attributes, duplicates, held-out split, contamination; each rejection has reason and score.

Shapes: N documents asked about, M of their domain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import Field, field_validator

from k2core import storage
from k2core.corpus.documents import Domain, group_of
from k2core.corpus.duplicates.paragraphs import ParagraphConfig
from k2core.recipe import RecipeError, Section
from k2core.storage import publish

if TYPE_CHECKING:
    from k2core.corpus.duplicates.decontamination import EvaluationSet, Hit

Name = TypeVar("Name")
Row = dict[str, Any]
EXACT, NEAR, PARAGRAPHS, CONTAMINATED = "exact_duplicate", "near_duplicate", "duplicate_paragraphs", "contaminated"
UNTAGGED = "untagged"
"""A signal failed on the document; the passage says how."""
HELDOUT, TRAIN, FOREIGN = "heldout", "train", "foreign"
"""`foreign` waits for its translation: it is neither trained on nor measured with."""


class Bounds(Section):
    """The values an attribute may have; a missing bound does not bind. Booleans count as 0 and 1."""

    min: float | None = Field(default=None, description="lowest value that is kept")
    max: float | None = Field(default=None, description="highest value that is kept")


class Rules(Section):
    """The rules of one domain, applied in the order written."""

    languages: list[str] = Field(description="ISO 639 codes that are kept; empty keeps all")
    attributes: dict[str, Bounds] = Field(description="attribute of data/attributes → bounds")


class SamplingStep(Section):
    """The sampling rate of documents at or above a quantile of quality."""

    min_quantile: float = Field(ge=0, lt=1, description="least share of the domain's documents that are worse")
    rate: float = Field(gt=0, le=1, description="share of the epochs in which such a document is trained on")


class DecontaminationConfig(Section):
    """Which passages of evaluation text no training document may hold."""

    item_words: int = Field(ge=8, description="consecutive words of an evaluation item that are too many")
    heldout_words: int = Field(ge=8, description="consecutive words of a held-out document that are too many")


class CurationConfig(Section):
    """What is kept."""

    rules: dict[Domain, Rules] = Field(description="rules of each domain; a domain without any loses nothing by rule")
    min_similarity: float = Field(
        ge=0, le=1, description="share of equal MinHash values from which a document is a near duplicate"
    )
    paragraphs: ParagraphConfig = Field(description="paragraphs that occur in several documents")
    heldout_fraction: float = Field(gt=0, lt=1, description="share of texts that no training ever sees")
    sampling: list[SamplingStep] = Field(min_length=1, description="sampling rates by quality; one has min_quantile 0")
    translate_from: list[str] = Field(
        description="ISO 639 codes that are kept beside each rule's languages as split `foreign`, to be translated"
    )
    decontamination: DecontaminationConfig = Field(description="passages that no training document may hold")

    @field_validator("sampling")
    @classmethod
    def _for_all(cls, steps: list[SamplingStep]) -> list[SamplingStep]:
        if min(step.min_quantile for step in steps) > 0:
            raise ValueError("no rate for the poorest documents; one step must have min_quantile 0")
        return steps


@dataclass(frozen=True)
class Rejection:
    """Why a document is rejected: the rule's name and the value that broke it.

    Attributes:
        matched: what it repeats, another document's id or `SET/ITEM` of evaluation; empty for a rule over attributes.
        passage: the words that it shares with `matched`, where they form a passage.
    """

    reason: str
    score: float
    matched: str = ""
    passage: str = ""


def judge(rules: Rules, attributes: Row, translate_from: Sequence[str] = ()) -> Rejection | None:
    """The first rule that `attributes` break; languages of `translate_from` are kept as well as the rules'.

    Raises:
        RecipeError: a rule names an attribute that is unknown or has no value for this kind of document.
    """
    if rules.languages and attributes["language"] not in (*rules.languages, *translate_from):
        return Rejection("language", float(attributes["language_score"]))
    for name, bounds in rules.attributes.items():
        value = attributes.get(name)
        if not isinstance(value, (int, float)):
            numbers = ", ".join(key for key, item in attributes.items() if isinstance(item, (int, float)))
            raise RecipeError(f"curate.rules: no number {name!r} for {attributes['id']}; it has {numbers}")
        low, high = bounds.min, bounds.max
        if (low is not None and value < low) or (high is not None and value > high):
            return Rejection(name, float(value))
    return None


def write_passages(
    sets: Sequence[EvaluationSet], heldout: Sequence[Path], config: DecontaminationConfig, folder: Path
) -> None:
    """Publish `folder`, which `Contamination` reads.

    Args:
        heldout: folders that `passages.spill` wrote of held-out documents, with n-grams of `config.heldout_words`.
    """
    from k2core.corpus.duplicates.decontamination import write_index

    with publish(folder) as scratch:
        write_index(sets, config.item_words, scratch / "items")
        write_index([], config.heldout_words, scratch / HELDOUT, [(HELDOUT, heldout)])


class Contamination:
    """Passages of evaluation sets and of held-out text, for which training documents are searched twice.

    `look` reads each training document; the sum of what it counts goes to `rejections`, which reads again what was
    found. The passages stay on the disk, in the folder of `write_passages`.

    Attributes:
        figures: `searched/SET`, the items that are searched for, and `too_short/SET`.
    """

    def __init__(self, folder: Path) -> None:
        from k2core.corpus.duplicates.decontamination import Index

        self._items, self._own = Index(folder / "items"), Index(folder / HELDOUT)
        self.figures: dict[str, float] = {}
        for what in ("searched", "too_short"):
            for index in (self._items, self._own):
                self.figures |= {f"{what}/{name}": float(count) for name, count in getattr(index, what).items()}

    def look(self, documents: Sequence[tuple[Name, str]]) -> Found[Name]:
        """What training documents (name, text) share with the items."""
        from k2core.corpus.duplicates.decontamination import count_passages, find_contaminated

        suspects, seen = count_passages(documents, self._own)
        hits = find_contaminated(documents, self._items)
        return Found({name: _contaminated(hit) for name, hit in hits.items()}, suspects, seen)

    def rejections(self, documents: Iterable[tuple[Name, str]], found: Found[Name]) -> dict[Name, Rejection]:
        """The rejections of `documents`, the ones in which `found`'s were found or more; `seen` counts those of all."""
        from k2core.corpus.duplicates.decontamination import find_contaminated

        suspects = set(found.suspects)
        hits = find_contaminated((one for one in documents if one[0] in suspects), self._own, found.seen)
        return {name: _contaminated(hit) for name, hit in hits.items()} | found.items


@dataclass
class Found(Generic[Name]):
    """What training documents share with evaluation sets (`items`: a rejection each) and with held-out text.

    Attributes:
        suspects: documents that share a passage with held-out text; `seen`, in how many documents each of these is.
    """

    items: dict[Name, Rejection]
    suspects: list[Name]
    seen: Counter[int]


def _contaminated(hit: Hit) -> Rejection:
    return Rejection(CONTAMINATED, hit.share, hit.item, hit.passage)


def split_of(document_id: str, heldout_fraction: float) -> str:
    """`heldout` for `heldout_fraction` of the texts, by hash of the id without its part, so no text is split."""
    return storage.split_of(f"heldout/{group_of(document_id)}", heldout_fraction)


def is_foreign(rules: Rules | None, language: str, translate_from: Sequence[str]) -> bool:
    """Whether a document is kept for its translation alone."""
    if rules is None or not rules.languages:
        return False
    return language not in rules.languages and language in translate_from


def rates(qualities_N: Any, among_M: Any, steps: Sequence[SamplingStep]) -> list[float]:
    """The sampling rate of each of N documents by its place among the rising qualities of a domain's M documents.

    Equals share the middle of their places. The highest step whose quantile a document reaches counts (K1.5, appendix
    B: good documents are seen more often).
    """
    falling = sorted(steps, key=lambda step: -step.min_quantile)
    places_N = among_M.searchsorted(qualities_N, "left") + among_M.searchsorted(qualities_N, "right")
    quantiles = (place / (2 * len(among_M)) for place in places_N.tolist())
    return [next(step.rate for step in falling if quantile >= step.min_quantile) for quantile in quantiles]


@dataclass
class Funnel:
    """Documents and their characters as ingested, those that each reason took, and the characters that were cut.

    A document's characters are those it had when it went. `cut` are the characters of repeated paragraphs in documents
    that were not rejected for them.
    """

    ingested: tuple[int, int] = (0, 0)
    gone: dict[str, tuple[int, int]] = field(default_factory=dict)
    cut: int = 0

    def took(self, reason: str, characters: int) -> None:
        """Count a document that went for `reason`."""
        before = self.gone.get(reason, (0, 0))
        self.gone[reason] = before[0] + 1, before[1] + characters

    def table(self, steps: Iterable[str]) -> list[dict[str, Any]]:
        """What is left after each of `steps`: `{step, documents, characters}`, from "ingested" on."""
        documents, characters = self.ingested
        table = [{"step": "ingested", "documents": documents, "characters": characters}]
        for step in steps:
            gone = self.gone.get(step, (0, 0))
            documents, characters = documents - gone[0], characters - gone[1] - (self.cut if step == PARAGRAPHS else 0)
            table.append({"step": step, "documents": documents, "characters": characters})
        return table
