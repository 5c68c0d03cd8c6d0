"""What each arm of the RL experiment changes in section `rl` of a recipe, in the order in which they are asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from experiments.variants import FULL


@dataclass(frozen=True)
class Arm:
    """One way to run RL.

    Attributes:
        says: what it is, for a reader of the table.
        rl: keys of section `rl` that differ from the recipe.
        random_critic: whether the critic's head is drawn anew, so that its verdicts mean nothing.
    """

    says: str
    rl: dict[str, Any] = field(default_factory=dict)
    random_critic: bool = False


SANITY = {
    "pool": {"count_letters": 24, "pick_largest": 24, "tool_call": 48},
    "probe_samples": 10, "lowest_rate": 0.2, "highest_rate": 0.8,
    "prompts": 16, "success_momentum": 0.0, "iterations": 96,
}  # fmt: skip
"""Few items, each of which comes up many times; the success rate that is kept of an item is its last one."""

GRPO = {"objective": "grpo", "ptx_weight": 0.01}
"""Its mean over a response's tokens, of advantages divided by the deviation, is about a tenth of K2's sum over them.
PTX weighs a tenth too, so that the two weigh as much against each other as in the recipe."""

ARMS = {
    FULL: Arm("the recipe: K2's objective, two passes over an iteration's responses"),
    "reinforce": Arm("one pass, which makes it REINFORCE with a mean baseline; as many samples", {"passes": 1}),
    "reinforce_time": Arm("the same for as much time as the recipe takes", {"passes": 1, "iterations": 72}),
    "grpo": Arm("GRPO, two passes", GRPO),
    "grpo_time": Arm("GRPO, one pass, as much time", GRPO | {"passes": 1, "iterations": 72}),
    "sanity": Arm("few items that the SFT model solves 20% to 80% of the time", SANITY),
    "broken_critic": Arm("a critic with a random head", random_critic=True),
    "no_ptx": Arm("no PTX", {"ptx_weight": 0.0}),
    "more_rubric": Arm(
        "open prompts in every iteration, 8 beside the verified ones, whatever the critic's agreement",
        {"critique_every": 1, "critique_prompts": 8, "critique_weight": 1.0, "critique_least": 0.0},
    ),
    "no_rubric": Arm("no open prompts and no critic", {"critique_prompts": 0}),
    "no_text": Arm("no text in PTX", {"ptx_text": {}}),
    "no_decay": Arm("temperature 1 throughout", {"temperature_start": 1.0, "temperature_end": 1.0}),
    "log_mean_exp": Arm("K1.5's baseline, log_mean_exp", {"baseline": "log_mean_exp"}),
    "all_items": Arm("no difficulty filter", {"lowest_rate": 0.0, "highest_rate": 1.0}),
    "length": Arm("length reward of weight 0.5", {"length_weight": 0.5}),
    "no_curriculum": Arm("every item as likely as any other", {"success_floor": 1.0}),
}
