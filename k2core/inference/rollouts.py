"""Sampling responses in batches, and what became of each.

Every environment has a token budget for a response. A response that does not end within it is cut there and gets
`overlong_reward` whatever it says (K2 §3.2.3: truncate and penalise).

A prompt may be the beginning of an episode: what the environment says to a response follows it, and another response
follows that. The tokens stay as they were sampled, they are never decoded and encoded again; what the environment said
stands between them, masked. An episode that leaves no room in the context for another response counts as cut.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from k2core.chat.template import encode_dialogue
from k2core.chat.tokenizer import Tokenizer
from k2core.inference.responder import Due, Embedded, Responder
from k2core.inference.trajectory import Episode, Prompt, Rollout, Trajectory
from k2core.inference.verdicts import each_apart
from k2core.machine.processes import divided
from k2core.stage import StageError

if TYPE_CHECKING:
    from k2core.model.transformer import Transformer

__all__ = ["Episode", "Prompt", "Rollout", "Trajectory", "begin", "encode_prompt", "go_on", "sample", "settled"]
UNLIMITED = sys.maxsize


def encode_prompt(
    tokenizer: Tokenizer, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None
) -> tuple[int, ...]:
    """Token ids of a chat prompt up to and including the generation prompt."""
    return tuple(encode_dialogue(tokenizer, messages, tools, add_generation_prompt=True)[0])


def sample(
    model: Transformer,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    *,
    samples: int,
    temperature: float,
    seed: int,
    overlong_reward: float,
    context: int | None = None,
    repetition: int | None = None,
) -> list[list[Rollout]]:
    """`samples` responses to every prompt, in the prompts' order.

    Prompts of equal budget share the sampler's batches. The result depends on the arguments alone. The processes of a
    training divide the prompts; all of them must call this, each with the whole model.

    Args:
        context: most tokens of an episode with its prompt; None: as many as the model takes.
        repetition: so many last tokens that only repeat one sequence cut a response; None: nothing does.
    """
    room = context or model.config.max_position_embeddings

    def ended(groups: Sequence[list[Trajectory]]) -> list[list[Rollout]]:
        begun = [trajectory for group in groups for trajectory in group]
        go_on(Embedded(model), tokenizer, begun, temperature=temperature, context=room, repetition=repetition)
        made = iter(settled(begun, tokenizer, overlong_reward))
        return [[next(made) for _ in group] for group in groups]

    rollouts = divided(begin(prompts, samples, seed), ended)
    if fault := next((rollout.fault for group in rollouts for rollout in group if rollout.fault), ""):
        raise StageError(f"an environment could not judge a response ({fault}); mend it, or leave it out")
    return rollouts


def settled(trajectories: Sequence[Trajectory], tokenizer: Tokenizer, overlong_reward: float) -> list[Rollout]:
    """What became of trajectories that are over. Rewards are found several at once; one that fails is 0 (`fault`)."""
    verdicts = each_apart([partial(each.verdict, tokenizer, overlong_reward) for each in trajectories])
    return [each.ended(tokenizer, verdict) for each, verdict in zip(trajectories, verdicts, strict=True)]


def begin(prompts: Sequence[Prompt], samples: int, seed: int) -> list[list[Trajectory]]:
    """`samples` trajectories for every prompt, none of which has a token yet."""
    numbers: dict[int, int] = defaultdict(int)  # a trajectory's random numbers go by its place in its budget
    groups = []
    for prompt in prompts:
        first = numbers[prompt.max_new_tokens]
        groups.append([Trajectory.of(prompt, f"{seed}/{number}") for number in range(first, first + samples)])
        numbers[prompt.max_new_tokens] += samples
    return groups


def go_on(
    respond: Responder,
    tokenizer: Tokenizer,
    trajectories: Sequence[Trajectory],
    *,
    temperature: float,
    context: int,
    repetition: int | None = None,
    token_budget: int | None = None,
    version: int = 0,
) -> None:
    """Sample on until each trajectory is over, or has got `token_budget` tokens more: then it is paused.

    Args:
        version: number of the policy, for the tokens that it samples.
        context, repetition: as in `sample`.
    """
    by_budget: dict[int, list[Trajectory]] = defaultdict(list)
    for trajectory in trajectories:
        if not trajectory.over:
            by_budget[trajectory.prompt.max_new_tokens].append(trajectory)
    for budget, live in sorted(by_budget.items()):
        left = [token_budget or UNLIMITED] * len(live)
        while live:
            due = [
                Due(
                    each.due, each.response, most, f"{each.stream}/{each.turn}" if each.turn else each.stream,
                    None if each.turn else each.prompt.constraint,
                )
                for each, most in zip(live, left, strict=True)
            ]  # fmt: skip
            completions = respond(
                due, version=version, most=budget, temperature=temperature, stop_id=tokenizer.im_end_id,
                repetition=repetition,
            )  # fmt: skip
            more, asking = list[tuple[Trajectory, int]](), list[tuple[Trajectory, Callable[[], Sequence[int] | None]]]()
            for each, completion, most in zip(live, completions, left, strict=True):
                more.append((each, most - (len(completion.tokens) - len(each.response.tokens))))
                if each.take(completion, version) and each.episode:
                    asking.append((each, partial(each.episode.advance, tokenizer.decode_reply(completion.tokens))))
            for (each, _), follows in zip(asking, each_apart([call for _, call in asking]), strict=True):
                each.hear(follows, version, context)
            more = [(each, spare) for each, spare in more if spare and not each.over]
            live, left = [each for each, _ in more], [spare for _, spare in more]
