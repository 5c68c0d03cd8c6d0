"""How long a stage may take: the part of the recipe that guards against a stage that hangs."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, PositiveFloat

from k2core.recipe.section import Section


class Limits(Section):
    """Section `limits`, read by the Prefect flow. No output depends on it."""

    TRACKED: ClassVar[bool] = False

    minutes: float = Field(
        gt=0, description="a stage that runs longer is ended; the next run continues from its scratch"
    )
    stages: dict[str, PositiveFloat] = Field(description="stage → minutes, for those with a limit of their own")

    def seconds(self, stage: str) -> float:
        """The limit of `stage` (`pretrain@stable`, or `pretrain` for all of its phases)."""
        own = self.stages.get(stage, self.stages.get(stage.split("@")[0], self.minutes))
        return own * 60
