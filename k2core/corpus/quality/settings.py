"""The settings of grading."""

from __future__ import annotations

from pydantic import Field

from k2core.corpus.quality.classifier import ClassifierConfig
from k2core.corpus.quality.combine import Weights
from k2core.corpus.quality.labels import LabelConfig
from k2core.recipe import Section


class GradingConfig(Section):
    """How the learnt parts are trained, and the weight of each part."""

    labels: LabelConfig = Field(description="good and poor examples")
    classifier: ClassifierConfig = Field(description="the fastText classifier")
    embedding_characters: int = Field(ge=50, description="characters of a document that its embedding is made from")
    weights: Weights = Field(description="weight of each part in `quality`")
