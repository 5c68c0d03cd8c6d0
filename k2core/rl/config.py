"""Settings of the reinforcement-learning loop."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from k2core.optim.learning_rate import Rates, make_rates
from k2core.recipe import RecipeError
from k2core.rl.engine import RolloutsConfig
from k2core.training.config import ParallelConfig
from k2core.training.dividing import DoesNotDivide, rows_each
from k2core.training.settings import TrainingSettings

Baseline = Literal["mean", "log_mean_exp"]
Objective = Literal["k2", "grpo"]


class RLConfig(TrainingSettings):
    """How many responses to which prompts, and how the policy learns from them."""

    pool: dict[str, int] = Field(description="training items of each environment that the curriculum draws from")
    iterations: int = Field(ge=1, description="iterations of sampling and updating: the steps of this training")
    prompts: int = Field(ge=1, description="verifiable prompts per iteration")
    samples: int = Field(ge=2, description="K, responses to each prompt")
    minibatches: int = Field(ge=1, description="parts of an iteration's responses, with an optimiser step each")
    passes: int = Field(ge=1, description="times an iteration learns from its responses; only step one is on-policy")
    objective: Objective = Field(
        description="what a step minimises: K2's squares; or GRPO's clipped ratios, without baseline and tau"
    )
    baseline: Baseline = Field(description="what a reward is measured against: the group's mean, or log_mean_exp")
    tau: float = Field(gt=0, description="τ, strength of the pull to the policy of the iteration's start")
    muon_lr: float = Field(gt=0, description="Muon's learning rate")
    adamw_lr: float = Field(
        gt=0,
        description="AdamW's learning rate (embeddings, head, norms); fresh state makes each step sign-like: keep low",
    )
    temperature_start: float = Field(gt=0, description="sampling temperature of the first iteration")
    temperature_end: float = Field(gt=0, description="sampling temperature of the last iteration (linear decay)")
    rollouts: RolloutsConfig = Field(description="what samples the responses")
    replay_routes: bool = Field(
        description="whether the trainer uses the experts that the sampler chose; the embedded sampler on a CPU only"
    )
    token_budget: int | None = Field(
        ge=1,
        description="tokens a trajectory gets per iteration; if it needs more it goes on in the next; null: all",
    )
    repetition: int | None = Field(
        ge=8,
        description="a response is cut if one sequence, four times or more, is its last so many tokens; null: never",
    )
    overlong_reward: float = Field(le=0, description="reward of a response that exceeds its token budget")
    length_weight: float = Field(ge=0, description="weight of the reward for shorter responses in a group; 0: none")
    length_from: int = Field(ge=0, description="iteration from which that reward counts: learn to be right first")
    probe_samples: int = Field(ge=1, description="responses of the SFT model to each pool item, to judge difficulty")
    lowest_rate: float = Field(ge=0, le=1, description="least pass rate of the SFT model for an item to be drawn")
    highest_rate: float = Field(ge=0, le=1, description="greatest pass rate of the SFT model for an item to be drawn")
    success_momentum: float = Field(ge=0, lt=1, description="weight of the past in an item's running success rate")
    success_floor: float = Field(gt=0, le=1, description="least weight of an item in prioritised sampling")
    ptx_weight: float = Field(ge=0, description="weight of the loss on supervised dialogues (PTX)")
    ptx_rows: int = Field(ge=1, description="rows of supervised dialogues per optimiser step")
    critique_every: int = Field(ge=1, description="iterations between two that also sample open prompts")
    critique_prompts: int = Field(ge=0, description="open prompts in such an iteration, rewarded by the critic")
    critique_weight: float = Field(ge=0, description="weight of the critic's win rate against verified rewards")
    critique_heldout: int = Field(
        ge=1, description="held-out pairs of verified replies that an iteration asks the critic about, in turn"
    )
    critique_pairs: int = Field(ge=0, description="pairs of verified replies per iteration that the critic learns from")
    critique_least: float = Field(
        ge=0, le=1, description="least agreement with the verifiers at which the critic's reward counts; 0.5 is chance"
    )
    context: int = Field(ge=32, description="tokens per packed training row; longer prompts are not drawn")
    microbatch_rows: int = Field(ge=1, description="rows of one forward and backward pass")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.replay_routes and self.rollouts.engine != "embedded":
            raise ValueError("replay_routes needs rollouts.engine embedded: servers' experts are not read yet")
        return self

    def check(self, parallel: ParallelConfig) -> None:
        """
        Raises:
            RecipeError: RL does not run on these processes.
        """
        for name, value in (("pipeline", parallel.pipeline), ("context", parallel.context)):
            if value > 1 and self.replay_routes:
                raise RecipeError(f"rl.replay_routes needs parallel.{name} 1, which is {value}: change one of them")
        if parallel.pipeline > 1 and self.microbatch_rows > 1:
            raise RecipeError(
                f"rl.microbatch_rows is {self.microbatch_rows}, but a pipeline (parallel.pipeline {parallel.pipeline}) "
                "takes equal micro-batches, which only single rows are: set it to 1"
            )
        if parallel.processes > 1 and self.token_budget:
            raise RecipeError("rl.token_budget needs parallel.processes 1; set it to null, or run RL in one process")
        if parallel.processes > 1 and self.rollouts.engine != "embedded":
            raise RecipeError(
                f"rl.rollouts.engine {self.rollouts.engine} needs parallel.processes 1; set it to embedded, or run RL "
                "in one process"
            )
        try:
            rows_each(self.ptx_rows, parallel.groups)
        except DoesNotDivide as error:
            raise RecipeError(f"rl.ptx_rows: {error}") from None

    @property
    def steps(self) -> int:
        return self.iterations

    @property
    def updates(self) -> int:
        """Optimiser steps per iteration, which all have the policy of its start as the reference."""
        return self.passes * self.minibatches

    def rates(self) -> Rates:
        return make_rates("constant", self.iterations, 1.0, 1.0)
