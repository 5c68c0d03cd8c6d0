"""Which documents of its domains a phase takes: for the anneal the good ones, for long contexts more of the long ones.

After Kimi k1.5, appendix B: the cooldown takes high-fidelity subsets; long-context activation takes 40% of its tokens
from long data and 60% from ordinary data. K2 follows it (§2.5).
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from k2core.recipe import Section


class Select(Section):
    """What a phase takes of its domains' documents; if all is zero, every document."""

    min_quality_quantile: float = Field(
        ge=0, lt=1, description="documents below this quantile of their domain's quality are left out; 0: none"
    )
    long_share: float = Field(
        ge=0, lt=1, description="share of the phase's rows filled by long documents alone; 0: as the mixture has"
    )
    long_tokens: int = Field(ge=0, description="tokens from which a document is long, its end mark counted")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.long_share) != bool(self.long_tokens):
            raise ValueError(
                f"long_share {self.long_share:g} and long_tokens {self.long_tokens} go together: both 0, or both set"
            )
        return self


EVERYTHING = Select(min_quality_quantile=0.0, long_share=0.0, long_tokens=0)
