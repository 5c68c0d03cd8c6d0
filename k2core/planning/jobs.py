"""What a recipe trains: its phases of pre-training, and how much its post-training computes at most."""

from __future__ import annotations

from dataclasses import dataclass
from keyword import iskeyword
from pathlib import Path
from typing import Any, TypeVar

from k2core.machine import Compute
from k2core.machine.device import Precision
from k2core.model.config import ModelConfig
from k2core.model.counts import training_flops
from k2core.optim.optimizer import OptimizerConfig
from k2core.recipe import RecipeError, Section, read_recipe, section_of
from k2core.rl.config import RLConfig
from k2core.training.config import ParallelConfig
from k2core.training.fine_tuning import FineTuning
from k2core.training.phases import Phase

S = TypeVar("S", bound=Section)
PRETRAIN, EXTENSION = "pretrain", "extend_context"
DIALOGUES = ("sft", "critic")


@dataclass(frozen=True)
class Job:
    """One training: `tokens` in steps of `batch_tokens`, in rows of `context` tokens."""

    name: str
    tokens: int
    batch_tokens: int
    context: int

    @property
    def steps(self) -> int:
        return max(1, round(self.tokens / self.batch_tokens))

    @property
    def rows(self) -> int:
        """Rows per step."""
        return self.batch_tokens // self.context

    def flops(self, model: ModelConfig) -> float:
        """Operations of a step."""
        return self.batch_tokens * training_flops(model, self.context)


@dataclass(frozen=True)
class Jobs:
    """All trainings of a recipe, and what they share.

    Attributes:
        pretraining: the phases in order, `extend_context` last; they run on a mesh.
        post: SFT, critic and RL. Rows count as full, and of RL only updates: the most that
            they compute.
        rl: how RL samples and learns; None: there is none.
    """

    model: ModelConfig
    precision: Precision
    parallel: ParallelConfig
    pretraining: tuple[Job, ...]
    post: tuple[Job, ...]
    rl: RLConfig | None = None


def read_jobs(path: Path) -> Jobs:
    """The trainings of the recipe at `path`.

    Raises:
        RecipeError: a section is missing or does not fit.
    """
    content = read_recipe(path)
    section_of(OptimizerConfig, content, path, "optimizer")  # type: ignore[type-abstract]
    phases = {name: keys_of(Phase, content, path, PRETRAIN, name) for name in phase_names(content, path)}
    phases[EXTENSION] = keys_of(Phase, content, path, EXTENSION)
    rl = keys_of(RLConfig, content, path, "rl")
    tunings = {name: keys_of(FineTuning, content, path, name) for name in DIALOGUES}
    post = [_in_rows(name, each.steps, each.batch_rows, each.context) for name, each in tunings.items()]
    return Jobs(
        section_of(ModelConfig, content, path, "model"),
        section_of(Compute, content, path, "compute").precision,
        section_of(ParallelConfig, content, path, "parallel"),
        tuple(Job(name, each.tokens, each.batch_tokens, each.context_length) for name, each in phases.items()),
        (*post, _in_rows("rl", rl.iterations, rl.prompts * rl.samples, rl.context)),
        rl,
    )


def phase_names(content: dict[str, Any], path: Path) -> list[str]:
    """The phases of pre-training in a recipe's `content`, which was read from `path`.

    Raises:
        RecipeError: they are no mapping of names that a file and a function can have.
    """
    phases = content.get(PRETRAIN) or {}
    if not isinstance(phases, dict):
        raise RecipeError(f"{path}: {PRETRAIN} = {phases!r}: no phases by name; write them as in recipes/laptop.yaml")
    for name in phases:
        if not isinstance(name, str) or not name.isidentifier() or iskeyword(name):
            raise RecipeError(
                f"{path}: {PRETRAIN}.{name}: no name of a phase; it has letters, digits and _, as in `stable`"
            )
    return list(phases)


def _in_rows(name: str, steps: int, rows: int, context: int) -> Job:
    return Job(name, steps * rows * context, rows * context, context)


def keys_of(cls: type[S], content: dict[str, Any], path: Path, *keys: str) -> S:
    """The keys of `cls` in a section that has more: a stage checks all of them."""
    *above, last = keys
    parent: Any = content
    for key in above:
        parent = parent[key]
    node = parent.get(last)
    if isinstance(node, dict):
        node = {key: value for key, value in node.items() if key in cls.model_fields}
        for key in reversed(keys):
            node = {key: node}
        content = node
    return section_of(cls, content, path, *keys)
