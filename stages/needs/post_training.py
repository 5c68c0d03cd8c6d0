"""Fine-tuning, critic and RL need environments that exist, and items of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from k2core.gym.registry import text_environments
from k2core.gym.settings import GymConfig
from stages.critic import Params as Critic
from stages.programs import Params as Programs
from stages.rl import Params as RL
from stages.sft import Params as SFT

TOOLS, DIALOGUES = "tool_call", "tool_dialogue"
"""The environments made of the tasks: first replies, and whole dialogues for RL."""


def environments_that_there_are(sft: SFT, critic: Critic, rl: RL, programs: Programs, gym: GymConfig) -> Iterator[str]:
    texts = list(text_environments(gym))
    run = [name for name, some in (("coding", programs.problems), ("swe", programs.packages)) if some]
    named: dict[str, tuple[Mapping[str, int], list[str]]] = {
        "sft.demonstrations": (sft.demonstrations, texts),
        "critic.gym_pairs": (critic.gym_pairs, texts),
        "rl.pool": (rl.pool, [*texts, TOOLS, DIALOGUES, *run]),
        "rl.ptx_demonstrations": (rl.ptx_demonstrations, [*texts, TOOLS, *run]),
    }
    for key, (counts, known) in named.items():
        for name, count in counts.items():
            if name not in known:
                yield f"{key}.{name}: no such environment; there are {', '.join(known)}"
            if count < 0:
                yield f"{key}.{name} = {count}: a number of items cannot be below 0"


def something_to_learn_from(critic: Critic, rl: RL) -> Iterator[str]:
    if not any(critic.gym_pairs.values()) and not critic.trajectory_pairs:
        yield "critic.gym_pairs: all 0 like critic.trajectory_pairs; the critic needs pairs, raise one"
    items = sum(count for count in rl.pool.values() if count > 0)
    if items < rl.prompts:
        yield f"rl.prompts = {rl.prompts}: rl.pool has {items} items in all; raise rl.pool or lower rl.prompts"
