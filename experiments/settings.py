"""Sizes of the Table 1 experiment, as a typed section of table1.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from k2core.recipe import FromList, Section, load_section

Rewriter = Literal["grammar", "formats", "joint", "llm"]
Arm = Literal["raw", "one_rephrasing", "all_rephrasings", "faq", "table", "tutorial", "joint"]


class Settings(Section):
    """One measurement: what is learnt, for how long, and how it is asked for."""

    articles: int = Field(ge=2, description="articles that are learnt")
    characters: FromList[tuple[int, int]] = Field(description="least and greatest length of an article")
    least_questions: int = Field(ge=1, description="questions that an article must answer")
    versions: int = Field(ge=2, description="rephrasings of each article (the paper: 10)")
    epochs: int = Field(ge=1, description="times that the arm `raw` sees its articles; sets every arm's token budget")
    form_share: float = Field(
        ge=0, lt=1,
        description="share of rows with questions and answers about other articles, the same in every arm: "
        "from them the model learns the form, not the facts",
    )  # fmt: skip
    arms: list[Arm] = Field(
        min_length=1,
        description="what is trained: on the articles, one version of each, all versions, all in a format; with "
        "`joint` only articles that name another one are learnt",
    )
    seeds: list[int] = Field(min_length=1, description="trainings of each arm, by their order of data")
    batch_tokens: int = Field(ge=1, description="tokens per step")
    context_length: int = Field(ge=2, description="tokens per row")
    lr: float = Field(gt=0, description="constant multiplier of the recipe's learning rates")
    warmup_steps: int = Field(ge=0, description="steps of linear warm-up")
    choices: int = Field(ge=2, description="answers to choose from, the right one included")
    resamples: int = Field(ge=100, description="resamples of the bootstrap over articles")
    heldout_documents: int = Field(ge=1, description="held-out articles for bits per byte, at most")
    llm_attempts: int = Field(ge=0, description="rewrites asked for each article, at most; 0 for the grammar rewriter")
    llm_temperature: float = Field(ge=0, le=2, description="sampling temperature of the rewrites")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.llm_attempts and self.llm_attempts < self.versions:
            raise ValueError(f"llm_attempts {self.llm_attempts} cannot give versions {self.versions}")
        return self


def load_settings(rewriter: Rewriter, path: Path = Path(__file__).with_name("table1.yaml")) -> Settings:
    """The sizes for one rewriter.

    Raises:
        RecipeError: the file has no such section, or a value that does not fit.
    """
    return load_section(Settings, path, rewriter)
