"""The four parts of one domain's documents: labels, classifier, similarity, ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from k2core.corpus.quality import classifier
from k2core.corpus.quality.classifier import ClassifierConfig
from k2core.corpus.quality.combine import PARTS, Weights, auc, combine, ranks
from k2core.corpus.quality.judge import Excerpt
from k2core.corpus.quality.labels import Label, LabelConfig, label, verdict
from k2core.corpus.quality.similarity import Similarity
from k2core.recipe import Section


class GradingConfig(Section):
    """How the learnt parts are trained, and the weight of each part."""

    labels: LabelConfig = Field(description="good and poor examples")
    classifier: ClassifierConfig = Field(description="the fastText classifier")
    embedding_characters: int = Field(ge=50, description="characters of a document that its embedding is made from")
    weights: Weights = Field(description="weight of each part in `quality`")


@dataclass
class Graded:
    """A domain's documents, in the order given, with their parts.

    Attributes:
        parts: part → score of each document, None where it has none.
        places: part → rank within the domain.
        probes: part → score of each judged excerpt, intact and damaged, where the part exists.
    """

    ids: list[str]
    parts: dict[str, list[float | None]]
    places: dict[str, list[float | None]]
    quality: list[float]
    labels: dict[str, Label]
    probes: dict[str, list[float]] = field(default_factory=dict)


def grade_domain(
    rows: Sequence[Mapping[str, Any]],
    judged: Sequence[Excerpt],
    grades: Sequence[int | None],
    config: GradingConfig,
    seed: int,
    scratch: Path,
) -> Graded:
    """The parts and the quality of one domain's documents.

    Args:
        rows: `id`, `text` and the rules' score `rules` of each.
        judged: excerpts that the LLM has seen, with its `grades` in the same order.
        scratch: folder for the classifier's examples.
    """
    ids = [row["id"] for row in rows]
    rules = {row["id"]: row["rules"] for row in rows}
    llm = {item.id: grade for item, grade in zip(judged, grades, strict=True) if not item.damage}
    labels = label(rules, llm, config.labels)
    lines = {row["id"]: classifier.line_of(row["text"], config.classifier.characters) for row in rows}
    models = classifier.train_halves(lines, labels, config.classifier, seed, scratch)
    similarity = Similarity([row["text"][: config.embedding_characters] for row in rows])
    high = [number for number, name in enumerate(ids) if name in labels and labels[name].high]
    centroid = similarity.centroid(high) if high else None
    learnt = classifier.score_all(models, lines, seed)
    near: list[float | None] = [*similarity.score(centroid)] if high else [None] * len(ids)
    parts: dict[str, list[float | None]] = {
        "rules": [*rules.values()],
        "classifier": [learnt[name] for name in ids],
        "embedding": near,
        "llm": [None if llm.get(name) is None else float(llm[name] or 0) for name in ids],
    }
    places = {part: ranks(parts[part]) for part in PARTS}
    probes: dict[str, list[float]] = {}
    if models:
        probes["classifier"] = [
            classifier.score(
                models[classifier.fold_of(item.id, seed)], [classifier.line_of(item.text, config.classifier.characters)]
            )[0]
            for item in judged
        ]
    if high:
        probes["embedding"] = similarity.score(centroid, [item.text for item in judged])
    return Graded(ids, parts, places, combine(places, config.weights), labels, probes)


def validation(graded: Graded, config: LabelConfig) -> tuple[dict[str, float], dict[bool, list[float]]]:
    """How the classifier's scores, each by the model that has not seen the document, agree with labels.

    Returns:
        `labels_high` and `labels_low` (examples) and `auc_rules` over the examples of the rules; and the ranks of the
        documents that the LLM's grade calls good (True) and poor (False).
    """
    grades = dict(zip(graded.ids, graded.parts["llm"], strict=True))
    by_rules: dict[bool, list[float]] = {True: [], False: []}
    by_llm: dict[bool, list[float]] = {True: [], False: []}
    for name, place in zip(graded.ids, graded.places["classifier"], strict=True):
        grade, example = grades[name], graded.labels.get(name)
        if place is None:
            continue
        if grade is None and example is not None:
            by_rules[example.high].append(place)
        elif grade is not None and (high := verdict(grade, config)) is not None:
            by_llm[high].append(place)
    good = sum(item.high for item in graded.labels.values())
    figures = {"labels_high": float(good), "labels_low": float(len(graded.labels) - good)}
    if all(by_rules.values()):
        figures["classifier/auc_rules"] = auc(by_rules[True], by_rules[False])[0]
    return figures, by_llm


def judge_figures(judged: Sequence[Excerpt], scores: Sequence[float | None]) -> dict[str, float]:
    """How well `scores` tell intact excerpts from damaged ones: AUC with its 95% interval, by kind of damage too."""
    intact: list[float] = []
    damaged: dict[str, list[float]] = {}
    for item, value in zip(judged, scores, strict=True):
        if value is not None:
            (damaged.setdefault(item.damage, []) if item.damage else intact).append(value)
    everything = [value for values in damaged.values() for value in values]
    area, low, high = auc(intact, everything)
    figures = {"auc": area, "auc_low": low, "auc_high": high}
    return figures | {f"auc/{kind}": auc(intact, values)[0] for kind, values in sorted(damaged.items())}
