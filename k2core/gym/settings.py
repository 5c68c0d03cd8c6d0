"""Section `gym` of the recipe: environments beside those of `k2core/gym/environments`, for all stages with any."""

from __future__ import annotations

from collections import Counter
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from k2core.gym.data_sets import check
from k2core.gym.named.faithfulness import FaithfulnessSettings
from k2core.gym.named.harbor import HarborSettings
from k2core.gym.named.instructions import InstructionSettings
from k2core.gym.named.safety import SafetySettings
from k2core.gym.named.verifiers import VerifiersSettings
from k2core.llm.config import LLMConfig
from k2core.recipe import Section, modules_in


class DataSet(Section):
    """How hard a data set of reasoning-gym is, and how long its answers may be."""

    max_new_tokens: int = Field(ge=1, description="token budget of a response")
    config: dict[str, Any] = Field(description="difficulty: keys of the data set's own config; {}: its defaults")


class GymConfig(Section):
    """Environments that need no code, only a name; they are on once they are named."""

    llm: LLMConfig | None = Field(description="the model that judges and attacks; null: no environment may ask one")
    reasoning_gym: dict[str, DataSet] = Field(description="data sets of reasoning-gym that are environments, by name")
    instructions: dict[str, InstructionSettings] = Field(description="instructions to follow, by a name of yours")
    faithfulness: dict[str, FaithfulnessSettings] = Field(description="answers from a context, by a name of yours")
    verifiers: dict[str, VerifiersSettings] = Field(description="tasksets of Prime Intellect's verifiers")
    harbor: dict[str, HarborSettings] = Field(description="folders of tasks in Harbor's format")
    safety: dict[str, SafetySettings] = Field(description="requests to refuse, and to answer, by a name of yours")

    @field_validator("reasoning_gym")
    @classmethod
    def _are_there(cls, value: dict[str, DataSet]) -> dict[str, DataSet]:
        for name, chosen in value.items():
            check(name, chosen.config)
        return value

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        named = (self.reasoning_gym, self.instructions, self.faithfulness, self.verifiers, self.harbor, self.safety)
        for kind in ("instructions", "faithfulness", "safety"):
            for name, settings in getattr(self, kind).items():
                if self.llm is None and settings.judge is not None:
                    raise ValueError(f"llm: {kind}.{name} asks a model to judge, and there is none; say which answers")
        taken = Counter(name for kind in named for name in kind)
        taken.update([*modules_in("k2core.gym.environments")])
        for name, count in taken.items():
            if count > 1:
                raise ValueError(f"{name}: two environments of that name; choose another")
        return self


NO_DATA_SETS = GymConfig(
    llm=None, reasoning_gym={}, instructions={}, faithfulness={}, verifiers={}, harbor={}, safety={}
)
