"""The mesh of each training must divide its model and its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from k2core.model.config import ModelConfig
from k2core.recipe import RecipeError
from k2core.training.config import ParallelConfig
from k2core.training.dividing import check_columns, check_model, rows_at_once, rows_each
from k2core.training.fine_tuning import FineTuning
from k2core.training.phases import Extension, Phase
from stages.critic import Params as Critic
from stages.plan_mixture import Pretrain
from stages.rl import Params as RL
from stages.sft import Params as SFT


def meshes_that_divide(
    parallel: ParallelConfig, model: ModelConfig, pretrain: Pretrain, extend_context: Extension, sft: SFT,
    critic: Critic, rl: RL,
) -> Iterator[str]:  # fmt: skip
    phases = {f"pretrain@{name}": phase for name, phase in pretrain.phases.items()} | {"extend_context": extend_context}
    checks: dict[str, Callable[[ParallelConfig], None]] = {name: partial(_phase, of) for name, of in phases.items()}
    checks |= {"sft": partial(_tuning, sft), "critic": partial(_tuning, critic), "rl": rl.check}
    for name in parallel.stages:
        if name not in checks:
            yield f"parallel.stages.{name}: no such training; there are: {', '.join(checks)}"
    if parallel.processes == 1:
        return
    for name, check in checks.items():
        own = parallel.of(name)
        try:
            check_model(own, model)
            check(own)
        except RecipeError as error:
            yield f"{name}, on its mesh of section parallel: {error}"


def _phase(phase: Phase, own: ParallelConfig) -> None:
    check_columns(phase.context_length, own.context)
    _rows(own, phase.batch_tokens // phase.context_length, phase.context_length)


def _tuning(tuning: FineTuning, own: ParallelConfig) -> None:
    _rows(own, tuning.batch_rows, tuning.context)


def _rows(own: ParallelConfig, rows: int, context: int) -> None:
    rows_at_once(rows_each(rows, own.groups), context, own.micro_batch_tokens, own.context, own.pipeline)
