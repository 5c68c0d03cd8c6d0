"""The four parts of one domain's documents: labels, classifier, similarity, ranks.

Texts are read by `reading.py`; here are numbers, lines and vectors of them, a shard at a time.

Shapes: N documents of a domain, or of a shard of it, V tokens of the embedding's vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from k2core.corpus.quality import classifier, similarity
from k2core.corpus.quality.classifier import FOLDS
from k2core.corpus.quality.combine import PARTS, auc, combine, ranks
from k2core.corpus.quality.judge import Excerpt
from k2core.corpus.quality.labels import LabelConfig, label, verdict
from k2core.corpus.quality.reading import Part, parts_of
from k2core.corpus.quality.settings import GradingConfig
from k2core.corpus.workers import Watch
from k2core.storage import publish

_VECTORS = 8192
"""Vectors that are scored at once."""


@dataclass
class Graded:
    """A domain's documents with their parts.

    Attributes:
        parts: part → score of each document, NaN where it has none.
        places: part → rank within the domain.
        probes: part → score of each judged excerpt, intact and damaged, where the part exists.
    """

    parts: dict[str, np.ndarray]
    places: dict[str, np.ndarray]
    quality_N: np.ndarray
    labels_N: np.ndarray
    probes: dict[str, list[float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.quality_N)


def rules_of(parts: Sequence[Part]) -> np.ndarray:
    """The rules' score of each document of a domain."""
    return np.concatenate([part.rules_N for part in parts])


def learn(
    parts: Sequence[Part], grades: Mapping[int, int | None], config: GradingConfig, seed: int, folder: Path
) -> None:
    """Publish `folder` with what a domain's documents are scored by: classifiers, and weights of tokens.

    Args:
        grades: number → the LLM's grade of the documents that it judged.
    """
    labels_N = label(rules_of(parts), grades, config.labels)
    folds_N = np.concatenate([part.folds_N for part in parts])
    both = all((kind & (folds_N == fold)).any() for fold in range(FOLDS) for kind in (labels_N > 0, labels_N < 0))
    last = {number for number, grade in grades.items() if grade is not None} if config.labels.llm_repeats else set()
    with publish(folder) as scratch:
        scratch.mkdir()
        counts_V = np.zeros_like(parts[0].counts)
        for part in parts:
            counts_V += part.counts
        np.save(scratch / "weights.npy", similarity.token_weights(counts_V))
        if both:
            classifier.train_halves(
                lambda fold: _examples(parts, labels_N, last, folds_N == fold), config.classifier, seed, scratch
            )


def _examples(
    parts: Sequence[Part], labels_N: np.ndarray, last: set[int], wanted_N: np.ndarray
) -> Iterator[tuple[str, int]]:
    """Line and label of the labelled documents among those wanted; those in `last` come last."""
    held, labels_N = [], labels_N * wanted_N
    for part in parts:
        own = part.first + np.flatnonzero(labels_N[part.first : part.first + len(part)])
        lines = part.lines if len(own) else []
        for number in own.tolist():
            example = lines[number - part.first], int(labels_N[number])
            if number in last:
                held.append(example)
            else:
                yield example
    yield from held


@dataclass(frozen=True)
class Scoring:
    """The work on a documents' table, called with its name: it publishes a folder of that name in `folder`.

    The folder holds the vectors and the classifier's scores of each domain's documents.

    Args:
        read: what `Reading` left.
        learnt: the folder of `learn`'s folders, by domain.
    """

    read: Path
    learnt: Path
    folder: Path

    def __call__(self, name: str, watch: Watch) -> None:
        with publish(self.folder / name) as scratch:
            scratch.mkdir()
            for domain, (part,) in parts_of(self.read, [name]).items():
                learnt = self.learnt / domain
                models = classifier.load_halves(learnt)
                np.save(scratch / f"{domain}.classifier.npy", classifier.score_all(models, part.lines, part.folds_N))
                np.save(
                    scratch / f"{domain}.vectors.npy",
                    similarity.vectors_of(part.tokens, np.load(learnt / "weights.npy")),
                )


def grade_domain(
    domain: str,
    parts: Sequence[Part],
    scoring: Scoring,
    judged: Sequence[Excerpt],
    grades: Mapping[int, int | None],
    config: GradingConfig,
    seed: int,
) -> Graded:
    """The parts and the quality of one domain's documents.

    Args:
        scoring: what has been done for all shards.
        judged: excerpts that the LLM has seen, intact and damaged.
        grades: number → grade of the intact ones.
    """
    rules_N = rules_of(parts)
    labels_N = label(rules_N, grades, config.labels)
    llm_N = np.full(len(rules_N), np.nan)
    for number, grade in grades.items():
        llm_N[number] = np.nan if grade is None else grade
    files = [scoring.folder / part.table / f"{domain}.vectors.npy" for part in parts]
    probes: dict[str, list[float]] = {}
    near_N = np.full(len(rules_N), np.nan)
    if (labels_N > 0).any():
        space = similarity.Similarity(_vectors(files))
        centroid = space.centroid(_vectors(files, labels_N > 0))
        scores = (value for chunk in _vectors(files) for value in space.score(chunk, centroid))
        near_N = np.fromiter(scores, np.float64, len(rules_N))
        tokens = [*similarity.token_ids([item.text for item in judged])]
        weights_V = np.load(scoring.learnt / domain / "weights.npy")
        probes["embedding"] = space.score(similarity.vectors_of(tokens, weights_V), centroid)
    if models := classifier.load_halves(scoring.learnt / domain):
        lines = [classifier.line_of(item.text, config.classifier.characters) for item in judged]
        folds = [classifier.fold_of(item.id, seed) for item in judged]
        probes["classifier"] = classifier.score_all(models, lines, np.array(folds)).tolist()
    learnt = [np.load(scoring.folder / part.table / f"{domain}.classifier.npy") for part in parts]
    scores_of = dict(zip(PARTS, (rules_N, np.concatenate(learnt), near_N, llm_N), strict=True))
    places = {part: ranks(values_N) for part, values_N in scores_of.items()}
    return Graded(scores_of, places, combine(places, config.weights), labels_N, probes)


def _vectors(files: Sequence[Path], wanted_N: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """The vectors in all `files`, or the wanted ones, `_VECTORS` at a time, however they are divided into files."""
    waiting: list[np.ndarray] = []
    rows = first = 0
    for path in files:
        vectors = np.load(path)
        if wanted_N is not None:
            wanted, first = wanted_N[first : first + len(vectors)], first + len(vectors)
            vectors = vectors[wanted]
        while len(vectors):
            waiting.append(vectors[: _VECTORS - rows])
            rows, vectors = rows + len(waiting[-1]), vectors[_VECTORS - rows :]
            if rows == _VECTORS:
                yield np.concatenate(waiting)
                waiting, rows = [], 0
    if rows:
        yield np.concatenate(waiting)


def validation(graded: Graded, config: LabelConfig) -> tuple[dict[str, float], dict[bool, list[float]]]:
    """How the classifier's scores, each by the model that has not seen the document, agree with labels.

    Returns:
        `labels_high` and `labels_low` (examples) and `auc_rules` over the examples of the rules; and the ranks of the
        documents that the LLM's grade calls good (True) and poor (False).
    """
    places_N, llm_N, labels_N = graded.places["classifier"], graded.parts["llm"], graded.labels_N
    scored_N = ~np.isnan(places_N)
    by_rules = {
        high: places_N[scored_N & np.isnan(llm_N) & ((labels_N > 0) if high else (labels_N < 0))]
        for high in (True, False)
    }
    by_llm: dict[bool, list[float]] = {True: [], False: []}
    for number in np.flatnonzero(scored_N & ~np.isnan(llm_N)).tolist():
        if (high := verdict(llm_N[number], config)) is not None:
            by_llm[high].append(float(places_N[number]))
    figures = {
        "labels_high": float(np.count_nonzero(labels_N > 0)),
        "labels_low": float(np.count_nonzero(labels_N < 0)),
    }
    if all(map(len, by_rules.values())):
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
