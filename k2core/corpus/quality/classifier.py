"""The part `classifier`: fastText, as K1.5 and DCLM (arXiv 2406.11794) use it, learnt from labelled documents.

Each domain has two models. Each learns from the labelled documents of one half and scores the other half: no model
scores a document that it has seen, and all labels serve as validation. The parts of one text are in one half.

Shapes: N documents of a domain.
"""

from __future__ import annotations

import ctypes
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from k2core.corpus.documents import group_of
from k2core.corpus.words import split_words
from k2core.recipe import RecipeError, Section
from k2core.storage import fraction_of

if TYPE_CHECKING:
    import numpy as np

_HIGH, _LOW = "__label__high", "__label__low"
FOLDS = 2


class ClassifierConfig(Section):
    """fastText's own settings; it runs on one thread, because with more the result varies."""

    characters: int = Field(ge=50, description="characters of a document that are read")
    dimensions: int = Field(ge=2, description="size of a word's vector")
    word_ngrams: int = Field(ge=1, le=5, description="longest run of words that has a vector of its own")
    buckets: int = Field(ge=1000, description="vectors that runs of words share by hash")
    epochs: int = Field(ge=1, description="passes over the examples")
    learning_rate: float = Field(gt=0, le=1, description="learning rate of the first step; it falls to 0")


def fold_of(document_id: str, seed: int) -> int:
    """The half of the documents that `document_id` belongs to, 0 or 1."""
    return int(FOLDS * fraction_of(f"{seed}/fold/{group_of(document_id)}"))


def line_of(text: str, characters: int) -> str:
    """The words of a text as fastText reads them: one line, lower case, nothing that it takes for a label."""
    return " ".join(split_words(text[:characters].lower())).replace("__label__", "label")


def train(examples: Iterable[tuple[str, int]], config: ClassifierConfig, seed: int, scratch: Path) -> Any:
    """A model from `(line, label)` pairs (`labels.label`); equal arguments give equal weights.

    Args:
        scratch: a file for the examples; memory holds 32 bytes of each.

    Raises:
        RecipeError: the training diverges.
    """
    import fasttext
    import numpy as np

    scratch.parent.mkdir(parents=True, exist_ok=True)
    unordered = scratch.with_suffix(".unordered")
    places, starts, labels = array("d"), array("q", [0]), array("q")
    with unordered.open("wb") as file:
        for line, label in examples:
            places.append(fraction_of(f"{seed}/order/{line}"))
            starts.append(starts[-1] + file.write(line.encode()))
            labels.append(label)
    # Shuffled by hash of the line: the last examples, at a falling rate, must not all be of one kind.
    with unordered.open("rb") as lines, scratch.open("wb") as file:
        for number in np.argsort(np.frombuffer(places), kind="stable").tolist():
            lines.seek(starts[number])
            text = lines.read(starts[number + 1] - starts[number])
            mark = _HIGH if labels[number] > 0 else _LOW
            file.write((mark.encode() + b" " + text + b"\n") * abs(labels[number]))
    unordered.unlink()
    try:
        with _zeroed_memory():
            return fasttext.train_supervised(
                str(scratch), lr=config.learning_rate, dim=config.dimensions, epoch=config.epochs, seed=seed, thread=1,
                wordNgrams=config.word_ngrams, bucket=config.buckets, minCount=2, loss="softmax", verbose=0,
            )  # fmt: skip
    except RuntimeError as error:
        raise RecipeError(
            f"grade.classifier: fastText says {str(error)!r}; lower learning_rate (it is {config.learning_rate:g})"
        ) from None


@contextmanager
def _zeroed_memory() -> Iterator[None]:
    """Inside the block, glibc clears the memory that it hands out.

    On one thread, fastText initialises a tenth of its vectors and keeps whatever is in memory for the rest: NaN now,
    another model then (0.9.2; each further thread would initialise a tenth more).

    Raises:
        RecipeError: the C library is not glibc, so no training of fastText could be repeated.
    """
    M_PERTURB = -6
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        raise RecipeError("grade.classifier: fastText's training needs Linux with glibc to be repeatable; run it there")
    mallopt(M_PERTURB, 255)  # the complement is written
    try:
        yield
    finally:
        mallopt(M_PERTURB, 0)


def score(model: Any, lines: Sequence[str]) -> list[float]:
    """The probability, for each of `lines`, that it is a good document's."""
    labels, shares = model.predict(list(lines), k=2)
    found = (dict(zip(names, values, strict=True)) for names, values in zip(labels, shares, strict=True))
    return [round(min(1.0, float(row.get(_HIGH, 0.0))), 4) for row in found]


def train_halves(
    examples: Callable[[int], Iterable[tuple[str, int]]], config: ClassifierConfig, seed: int, folder: Path
) -> None:
    """Write models 0 and 1 into `folder`; model i learns from the `examples` of the fold other than i."""
    for fold in range(FOLDS):
        model = train(examples(1 - fold), config, seed, folder / f"examples-{fold}.txt")
        model.save_model(str(folder / f"{fold}.bin"))


def load_halves(folder: Path) -> list[Any]:
    """What `train_halves` wrote; [] if there is nothing."""
    import fasttext

    return [fasttext.load_model(str(folder / f"{fold}.bin")) for fold in range(FOLDS) if (folder / "0.bin").exists()]


def score_all(models: Sequence[Any], lines: Sequence[str], folds_N: np.ndarray) -> np.ndarray:
    """Every document's score, by the model that has not seen it; NaN where there are no models."""
    import numpy as np

    scores_N = np.full(len(lines), np.nan)
    for fold, model in enumerate(models):
        own = np.flatnonzero(folds_N == fold)
        if len(own):
            scores_N[own] = score(model, [lines[number] for number in own.tolist()])
    return scores_N
