"""How much an evaluation measures, as parameters."""

from __future__ import annotations

from pydantic import Field

from k2core.recipe import Section


class Settings(Section):
    """What section `evaluate` says; every benchmark sees all of it."""

    context: int = Field(ge=32, description="tokens per window of held-out text")
    items: int = Field(ge=1, description="held-out items per environment")
    samples: int = Field(ge=1, description="responses to each item at temperature 1; also the K of pass@K and pass^K")
    dialogues: int = Field(ge=1, description="held-out tasks played whole: once greedily, `samples` times sampled")
    readable: int = Field(ge=0, description="items per environment, and whole dialogues, in samples.jsonl")
