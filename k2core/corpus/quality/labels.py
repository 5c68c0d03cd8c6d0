"""What the classifier and the centroids learn from: documents that are good or poor for their domain.

Most labels come from the rules: the best and the worst documents of a domain by their score. Where the LLM has judged,
its label replaces theirs and counts several times, because it gives few.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field, model_validator

from k2core.recipe import Section


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


@dataclass(frozen=True)
class Label:
    """A good (`high`) or poor example, to be learnt from `weight` times."""

    high: bool
    weight: int


def label(rules: Mapping[str, float], grades: Mapping[str, int | None], config: LabelConfig) -> dict[str, Label]:
    """Labels by id for one domain.

    Args:
        rules: the rules' score of every document of the domain.
        grades: the LLM's grades of those it judged; a document graded between the limits has no label.
    """
    if not rules:
        return {}
    ordered = sorted(rules.values())
    count = max(1, int(config.share * len(ordered)))
    low, high = ordered[count - 1], ordered[-count]
    labels = {}
    for name, score in rules.items():
        # Where most documents share the best score, what is below it is poor.
        if score >= high and score > ordered[0]:
            labels[name] = Label(True, 1)
        elif score < high and (score <= low or low == high):
            labels[name] = Label(False, 1)
    if config.llm_repeats:
        for name, grade in grades.items():
            if grade is None:
                continue
            labels.pop(name, None)
            if (high_by_llm := verdict(grade, config)) is not None:
                labels[name] = Label(high_by_llm, config.llm_repeats)
    return labels


def verdict(grade: float, config: LabelConfig) -> bool | None:
    """Whether the LLM's grade makes a document a good example (True), a poor one (False) or neither (None)."""
    return True if grade >= config.high_grade else False if grade <= config.low_grade else None
