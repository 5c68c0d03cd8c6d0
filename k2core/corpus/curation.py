"""Curation: rules over attributes, duplicates, held-out split, contamination; each rejection has reason and score."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from k2core import storage
from k2core.corpus.documents import group_of
from k2core.corpus.duplicates.dedup import Fingerprint, find_duplicates
from k2core.corpus.duplicates.paragraphs import ParagraphConfig, Repeats, find_repeats
from k2core.recipe import RecipeError, Section

if TYPE_CHECKING:
    from k2core.corpus.duplicates.decontamination import EvaluationSet

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


def deduplicate(rows: Iterable[Row], min_similarity: float) -> dict[str, Rejection]:
    """`id` → rejection for the duplicates of `rows` (`id`, `quality`, `digest`, `minhash`), across all sources.

    Of two duplicates the one of higher quality stays; equals are ordered by id.
    """
    fingerprints = (Fingerprint(row["id"], row["digest"], row["minhash"]) for row in _ranked(rows))
    return {
        duplicate.id: Rejection(EXACT if duplicate.exact else NEAR, duplicate.similarity, duplicate.of)
        for duplicate in find_duplicates(fingerprints, min_similarity)
    }


def repeated_paragraphs(rows: Iterable[Row], config: ParagraphConfig) -> dict[str, Repeats]:
    """`id` → what the document repeats of better ones, over all sources of the compared domains."""
    compared = [row for row in rows if row["domain"] in config.domains]
    return find_repeats(((row["id"], row["text"]) for row in _ranked(compared)), config)


def rejection_of(repeats: Repeats) -> Rejection:
    """The rejection of a document that would lose too much; the score is the share in repeated paragraphs."""
    return Rejection(PARAGRAPHS, repeats.share, repeats.of, repeats.first)


def decontaminate(
    rows: Sequence[Row], sets: Sequence[EvaluationSet], config: DecontaminationConfig
) -> tuple[dict[str, Rejection], dict[str, float]]:
    """Rejections of the training documents that hold a passage of an evaluation set or of held-out text; figures.

    The score is the passage's share of the item's words. `searched/SET` counts the items that were searched for,
    `too_short/SET` those too short for it.
    """
    from k2core.corpus.duplicates.decontamination import EvaluationSet, Index, find_contaminated

    heldout = EvaluationSet(HELDOUT, {row["id"]: row["text"] for row in rows if row["split"] == HELDOUT})
    training = [(row["id"], row["text"]) for row in rows if row["split"] == TRAIN]
    items, own = Index(sets, config.item_words), Index([heldout], config.heldout_words)
    hits = find_contaminated(training, own, phrases_count=False)
    hits |= find_contaminated(training, items, phrases_count=True)
    figures: dict[str, float] = {}
    for what in ("searched", "too_short"):
        counts: Counter[str] = getattr(items, what) + getattr(own, what)
        figures |= {f"{what}/{group.name}": float(counts[group.name]) for group in (*sets, heldout)}
    return {name: Rejection(CONTAMINATED, hit.share, hit.item, hit.passage) for name, hit in hits.items()}, figures


def _ranked(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (-row["quality"], row["id"]))


def split_of(document_id: str, heldout_fraction: float) -> str:
    """`heldout` for `heldout_fraction` of the texts, by hash of the id without its part, so no text is split."""
    return storage.split_of(f"heldout/{group_of(document_id)}", heldout_fraction)


def is_foreign(rules: Rules | None, language: str, translate_from: Sequence[str]) -> bool:
    """Whether a document is kept for its translation alone."""
    if rules is None or not rules.languages:
        return False
    return language not in rules.languages and language in translate_from


def rates(qualities: Sequence[float], steps: Sequence[SamplingStep]) -> list[float]:
    """The sampling rate of each document of a domain by its place in the order of `qualities`; equals share the middle.

    The highest step whose quantile a document reaches counts (K1.5, appendix B: good documents are seen more often).
    """
    ordered, falling = sorted(qualities), sorted(steps, key=lambda step: -step.min_quantile)
    quantiles = (
        (bisect_left(ordered, value) + bisect_right(ordered, value)) / (2 * len(ordered)) for value in qualities
    )
    return [next(step.rate for step in falling if quantile >= step.min_quantile) for quantile in quantiles]


def funnel(
    rows: list[Row], rejections: dict[str, Rejection], steps: Iterable[str], cut: Mapping[str, int]
) -> list[dict[str, Any]]:
    """What is left after each of `steps`: `{step, documents, characters}`, from "ingested" on.

    Args:
        rows: documents with their texts as ingested.
        cut: `id` → characters of repeated paragraphs that were cut out of documents not rejected for them.
    """
    sizes = {row["id"]: len(row["text"]) for row in rows}
    documents, characters = len(sizes), sum(sizes.values())
    table = [{"step": "ingested", "documents": documents, "characters": characters}]
    for step in steps:
        if step == PARAGRAPHS:
            characters -= sum(cut.values())
            sizes = {name: size - cut.get(name, 0) for name, size in sizes.items()}
        gone = [name for name, rejection in rejections.items() if rejection.reason == step]
        documents, characters = documents - len(gone), characters - sum(sizes[name] for name in gone)
        table.append({"step": step, "documents": documents, "characters": characters})
    return table
