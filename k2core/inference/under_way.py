"""Samples under way: a prompt, what was sampled and said so far, and how to go on after a pause.

Partial rollouts (K1.5 §2.6.2, K2 §3.3.4): a sample that has had its tokens of an iteration is paused, and goes on in
the next one under the policy of then. Each token keeps the log-probability and the number of the policy that sampled
it. With unchanged weights the text is that of a sample which was never paused: its random stream goes on, too.

A paused sample is JSON, `state`. An episode is not kept: a fresh one is given the same responses again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from k2core.inference.rollouts import SAMPLER_BATCH, Episode, Prompt, Rollout
from k2core.inference.sampler import generate

if TYPE_CHECKING:
    from k2core.chat.tokenizer import Tokenizer
    from k2core.inference.completion import Completion
    from k2core.model.transformer import Transformer

LONGEST_LOOP = 64
"""Tokens of the longest passage whose repetition is noticed."""


@dataclass
class Sample:
    """A sample under way.

    Attributes:
        stream: name of its random stream, different for each sample.
        replies: where each reply begins in `tokens`; the last one goes on unless the sample is at an end.
        versions: for each token, the number of the policy that sampled it, or that was there when it was said.
        ended: whether nothing follows.
    """

    prompt: Prompt
    stream: str
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    replies: list[int] = field(default_factory=lambda: [0])
    truncated: bool = False
    ended: bool = False
    episode: Episode | None = field(init=False)

    def __post_init__(self) -> None:
        self.episode = self.prompt.begin() if self.prompt.begin else None

    @property
    def begun(self) -> int:
        """Tokens of the present reply so far."""
        return len(self.tokens) - self.replies[-1]

    @property
    def name(self) -> str:
        """Name of the present reply's random stream."""
        turn = len(self.replies) - 1
        return f"{self.stream}/{turn}" if turn else self.stream

    def take(self, completion: Completion, tokenizer: Tokenizer, context: int, version: int) -> None:
        """Take what was sampled, and, after a whole reply, what the environment says to it."""
        self._append(completion.tokens, completion.log_probs, 1, version)
        if completion.finish_reason != "stop":
            self.truncated = self.ended = self.begun == self.prompt.max_new_tokens
            return
        reply = tokenizer.decode_reply(self.tokens[self.replies[-1] :])
        follows = None if self.episode is None else self.episode.advance(reply)
        if follows is None:
            self.ended = True
            return
        used = len(self.prompt.tokens) + len(self.tokens) + len(follows)
        self.truncated = self.ended = used + self.prompt.max_new_tokens > context
        if not self.truncated:
            self._append(follows, [0.0] * len(follows), 0, version)
            self.replies.append(len(self.tokens))

    def cut(self) -> None:
        """End it here, as a response over its budget."""
        self.truncated = self.ended = True

    def result(self, tokenizer: Tokenizer, overlong_reward: float) -> Rollout:
        """What became of it."""
        text = tokenizer.decode_reply(self.tokens)
        reward = overlong_reward
        if not self.truncated:
            reward = self.prompt.score(text) if self.episode is None else self.episode.reward()
        passed = not self.truncated and reward >= 1.0
        return Rollout(self.tokens, self.log_probs, text, reward, passed, self.truncated, self.mask, self.versions)

    def state(self) -> dict[str, Any]:
        """All but the prompt, as JSON."""
        names = ("stream", "tokens", "log_probs", "mask", "versions", "replies", "truncated", "ended")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def restored(cls, prompt: Prompt, state: dict[str, Any], tokenizer: Tokenizer) -> Sample:
        """A sample as `state` was taken of it; its episode hears the replies again."""
        made = cls(prompt, **state)
        if made.episode is not None:
            ends = [*made.replies[1:], len(made.tokens)] if made.ended and not made.truncated else made.replies[1:]
            for begin, end in zip(made.replies, ends, strict=False):
                said = zip(made.tokens[begin:end], made.mask[begin:end], strict=True)
                made.episode.advance(tokenizer.decode_reply([token for token, sampled in said if sampled]))
        return made

    def _append(self, tokens: Sequence[int], log_probs: Sequence[float], sampled: int, version: int) -> None:
        self.tokens += tokens
        self.log_probs += log_probs
        self.mask += [sampled] * len(tokens)
        self.versions += [version] * len(tokens)


def begin(prompts: Sequence[Prompt], samples: int, seed: int) -> list[list[Sample]]:
    """`samples` fresh samples of each prompt. The names of their streams depend on the arguments alone."""
    groups: list[list[Sample]] = [[] for _ in prompts]
    counts: dict[int, int] = defaultdict(int)
    for group, prompt in zip(groups, prompts, strict=True):
        for _ in range(samples):
            group.append(Sample(prompt, f"{seed}/{counts[prompt.max_new_tokens]}"))
            counts[prompt.max_new_tokens] += 1
    return groups


def go_on(
    model: Transformer,
    tokenizer: Tokenizer,
    samples: Sequence[Sample],
    *,
    temperature: float,
    context: int,
    version: int = 0,
    most: int | None = None,
) -> None:
    """Sample on until each of `samples` has ended, or has had `most` tokens of this call and is paused.

    A reply is paused within, and an episode between two replies, where `most` is reached.

    Args:
        context: most tokens of an episode with its prompt.
        version: number of the policy.
    """
    had: dict[int, int] = defaultdict(int)
    live = [index for index, sample in enumerate(samples) if not sample.ended]
    while live:
        by_room: dict[int, list[int]] = defaultdict(list)
        for index in live:
            room = samples[index].prompt.max_new_tokens - samples[index].begun
            by_room[room if most is None else min(room, most - had[index])].append(index)
        for room, indices in sorted(by_room.items()):
            chosen = [samples[index] for index in indices]
            completions = generate(
                model,
                [[*sample.prompt.tokens, *sample.tokens] for sample in chosen],
                max_new_tokens=room,
                temperature=temperature,
                stop_ids={tokenizer.im_end_id},
                batch_size=SAMPLER_BATCH,
                constraints=[None if len(sample.replies) > 1 else sample.prompt.constraint for sample in chosen],
                streams=[sample.name for sample in chosen],
                begun=[sample.begun for sample in chosen],
            )
            for index, completion in zip(indices, completions, strict=True):
                had[index] += len(completion.tokens)
                samples[index].take(completion, tokenizer, context, version)
        live = [index for index in live if not samples[index].ended and (most is None or had[index] < most)]


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
) -> list[list[Rollout]]:
    """`samples` responses to every prompt, in the prompts' order, none of them paused.

    Prompts of equal budget share the sampler's batches. The result depends on the arguments alone.

    Args:
        context: most tokens of an episode with its prompt; None: as many as the model takes.
    """
    groups, room = begin(prompts, samples, seed), context or model.config.max_position_embeddings
    go_on(model, tokenizer, [one for group in groups for one in group], temperature=temperature, context=room)
    return [[one.result(tokenizer, overlong_reward) for one in group] for group in groups]


def repeats(tokens: list[int], times: int) -> bool:
    """Whether `tokens` end in `times` copies of a passage, as a model that is caught in a loop writes them."""
    return any(
        tokens[-size:] * times == tokens[-size * times :]
        for size in range(1, min(LONGEST_LOOP, len(tokens) // times) + 1)
    )
