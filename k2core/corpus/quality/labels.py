"""What the classifier and the centroids learn from: documents that are good or poor for their domain.

Most labels come from the rules: the best and the worst documents of a domain by their score. Where the LLM has judged,
its label replaces theirs and counts several times, because it gives few.

Shapes: N documents of a domain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from k2core.recipe import Section

if TYPE_CHECKING:
    import numpy as np


class LabelConfig(Section):
    """Which documents are good and poor examples."""

    share: float = Field(
        gt=0, le=0.5, description="share of a domain's documents, best and worst by rules, that become examples (each)"
    )
    high_grade: int = Field(ge=1, le=5, description="LLM's grade from which a document is a good example")
    low_grade: int = Field(ge=0, le=4, description="LLM's grade up to which a document is a poor example")
    llm_repeats: int = Field(
        ge=0, description="times that an example by the LLM is learnt from (by the rules: once); 0 ignores it"
    )

    @model_validator(mode="after")
    def _in_order(self) -> LabelConfig:
        if self.low_grade >= self.high_grade:
            raise ValueError("low_grade must be below high_grade")
        return self


def label(rules_N: np.ndarray, grades: Mapping[int, int | None], config: LabelConfig) -> np.ndarray:
    """Of each document of one domain how often it is learnt from: as a good example, or, below 0, as a poor one.

    Args:
        rules_N: the rules' score of every document of the domain.
        grades: number → the LLM's grade of those it judged; a document graded between the limits has no label.

    Returns:
        labels_N, int64; 0: no example.
    """
    import numpy as np

    labels_N = np.zeros(len(rules_N), np.int64)
    if len(rules_N):
        ordered = np.sort(rules_N)
        count = max(1, int(config.share * len(ordered)))
        low, high = ordered[count - 1], ordered[-count]
        # Where most documents share the best score, what is below it is poor.
        good_N = (rules_N >= high) & (rules_N > ordered[0])
        labels_N[~good_N & (rules_N < high) & ((rules_N <= low) | (low == high))] = -1
        labels_N[good_N] = 1
    if config.llm_repeats:
        for number, grade in grades.items():
            if grade is not None:
                good = verdict(grade, config)
                labels_N[number] = 0 if good is None else config.llm_repeats if good else -config.llm_repeats
    return labels_N


def verdict(grade: float, config: LabelConfig) -> bool | None:
    """Whether the LLM's grade makes a document a good example (True), a poor one (False) or neither (None)."""
    return True if grade >= config.high_grade else False if grade <= config.low_grade else None
