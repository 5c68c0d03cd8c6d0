"""What is trained: a model with its optimiser, and what earlier phases have left."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from k2core.recipe import Section
from k2core.storage import StorageError, write_json

if TYPE_CHECKING:
    from k2core.model.transformer import Transformer
    from k2core.optim.optimizer import Optimizer

STATE = "trainer.json"


class TrainerState(Section):
    """What a phase hands on beside weights and optimiser state (`trainer.json`)."""

    step: int = Field(ge=0, description="optimiser steps so far")
    tokens_seen: int = Field(ge=0, description="target tokens so far")
    documents: dict[str, int] = Field(description="training documents taken or passed over, by domain")
    lr_scale: float | None = Field(description="multiplier of the learning rate at which the phase ended")

    @classmethod
    def fresh(cls) -> TrainerState:
        return cls(step=0, tokens_seen=0, documents={}, lr_scale=None)

    @classmethod
    def load(cls, folder: Path) -> TrainerState:
        """Read `trainer.json` of a finished phase.

        Raises:
            StorageError: it is missing or not what a phase writes.
        """
        path = folder / STATE
        try:
            return cls.model_validate(json.loads(path.read_text()))
        except FileNotFoundError:
            raise StorageError(f"{path}: missing; {folder} was not made by a pre-training phase") from None
        except ValueError as error:
            raise StorageError(f"{path}: not a trainer state ({error}); run the phase that made it again") from None

    def save(self, folder: Path) -> None:
        write_json(folder / STATE, self.model_dump())


@dataclass(frozen=True)
class Learner:
    """A model, which training changes in place, its optimiser, and what was trained before."""

    model: Transformer
    optimizer: Optimizer
    before: TrainerState = field(default_factory=TrainerState.fresh)
