"""Section `gym` of the recipe: environments beside those of `k2core/gym/environments`, for all stages with any."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from k2core.gym.data_sets import check
from k2core.recipe import Section


class DataSet(Section):
    """How hard a data set of reasoning-gym is, and how long its answers may be."""

    max_new_tokens: int = Field(ge=1, description="token budget of a response")
    config: dict[str, Any] = Field(description="difficulty: keys of the data set's own config; {}: its defaults")


class GymConfig(Section):
    """Environments that need no code, only a name."""

    reasoning_gym: dict[str, DataSet] = Field(description="data sets of reasoning-gym that are environments, by name")

    @field_validator("reasoning_gym")
    @classmethod
    def _are_there(cls, value: dict[str, DataSet]) -> dict[str, DataSet]:
        for name, chosen in value.items():
            check(name, chosen.config)
        return value


NO_DATA_SETS = GymConfig(reasoning_gym={})
