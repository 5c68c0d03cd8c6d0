"""A sample under way: it can be paused after any token, written down, and go on under another policy.

What the environment said is not written down: the episode is played again with the responses, and must say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from k2core.inference.completion import Completion
from k2core.inference.verdicts import Failed
from k2core.storage import StorageError

if TYPE_CHECKING:
    from k2core.chat.tokenizer import Tokenizer
    from k2core.inference.constraint import Constraint


class Episode(Protocol):
    """What answers the responses to one prompt, until it has a reward for all of them."""

    def advance(self, response: str) -> Sequence[int] | None:
        """Token ids that follow a response, up to the next generation prompt; None: the episode has ended."""

    def reward(self) -> float:
        """Reward of the whole, in [0, 1]; 1 means passed."""


@dataclass(frozen=True)
class Prompt:
    """Something to respond to: token ids up to the generation prompt, a budget, and the reward of a response.

    Attributes:
        max_new_tokens: budget of one response.
        score: reward of the response's text; not asked where there is an episode.
        constraint: what the response is held to; None: nothing. An episode's later responses are free.
        begin: starts a fresh episode for each sample; None: one response is all.
    """

    tokens: tuple[int, ...]
    max_new_tokens: int
    score: Callable[[str], float]
    constraint: Constraint | None = None
    begin: Callable[[], Episode] | None = None


@dataclass(frozen=True)
class Rollout:
    """One sampled response, or all of an episode with what the environment said between.

    Attributes:
        log_probs: of the policy that sampled the token, as in a `Completion`; 0 where the environment spoke.
        mask: for each token, 1 if a policy sampled it.
        versions: for each token, the number of the policy that sampled it.
        fault: why there is no reward, which is then 0; empty: there is one.
        routes: if they were recorded, the experts for each token of prompt and rollout but the last one, as in a
            `Completion`, each as it was when the token was read for the first time.
    """

    tokens: list[int]
    log_probs: list[float]
    text: str
    reward: float
    passed: bool
    truncated: bool
    mask: list[int]
    versions: list[int] = field(default_factory=list)
    routes: np.ndarray | None = None
    fault: str = ""

    def stale(self, version: int) -> int:
        """How many of the tokens another policy than `version` sampled."""
        return sum(by != version for by, sampled in zip(self.versions, self.mask, strict=True) if sampled)


@dataclass
class Trajectory:
    """A sample from its first token to its last.

    Attributes:
        stream: name of its random numbers.
        tokens: of whole responses and of what the environment said to them; `log_probs`, `mask` and `versions` go with
            them as in a `Rollout`.
        response: the one that is due, as far as it is sampled; `response_versions` goes with its tokens.
        turn: number of that response.
        routes: as in a `Rollout`, as far as it is.
        over: whether it is the last one and whole, or cut.
        fault: why the environment has no answer to a response; empty: it had.
    """

    prompt: Prompt
    stream: str
    episode: Episode | None
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    mask: list[int] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)
    response: Completion = field(default_factory=lambda: Completion([], [], "paused"))
    response_versions: list[int] = field(default_factory=list)
    turn: int = 0
    truncated: bool = False
    over: bool = False
    routes: np.ndarray | None = None
    fault: str = ""

    @classmethod
    def of(cls, prompt: Prompt, stream: str) -> Trajectory:
        """A fresh sample."""
        return cls(prompt, stream, prompt.begin() if prompt.begin else None)

    @property
    def due(self) -> list[int]:
        """What the response that is due follows on."""
        return [*self.prompt.tokens, *self.tokens]

    def take(self, completion: Completion, version: int) -> bool:
        """Take what was sampled of the response that is due; whether the environment is to say something to it."""
        self.response_versions += [version] * (len(completion.tokens) - len(self.response.tokens))
        self.response = completion
        if completion.routes is not None:
            known = [] if self.routes is None else [self.routes]
            self.routes = np.concatenate([*known, completion.routes[sum(map(len, known)) :]])
        if completion.finish_reason == "paused":
            return False
        versions, self.response_versions, self.response = self.response_versions, [], Completion([], [], "paused")
        self._append(completion.tokens, completion.log_probs, 1, versions)
        self.turn += 1
        self.over, self.truncated = True, completion.finish_reason != "stop"
        return self.episode is not None and not self.truncated

    def hear(self, follows: Sequence[int] | Failed | None, version: int, context: int) -> None:
        """Take what the environment says to the response that was taken."""
        if isinstance(follows, Failed):
            self.fault = follows.reason
        if follows is None or isinstance(follows, Failed):
            return
        used = len(self.prompt.tokens) + len(self.tokens) + len(follows)
        self.truncated = used + self.prompt.max_new_tokens > context
        if not self.truncated:
            self.over = False
            self._append(follows, [0.0] * len(follows), 0, [version] * len(follows))

    def _append(self, tokens: Sequence[int], log_probs: Sequence[float], sampled: int, versions: Sequence[int]) -> None:
        self.tokens += tokens
        self.log_probs += log_probs
        self.mask += [sampled] * len(tokens)
        self.versions += versions

    def verdict(self, tokenizer: Tokenizer, overlong_reward: float) -> float:
        """Its reward, once it is over."""
        if self.truncated:
            return overlong_reward
        return self.prompt.score(tokenizer.decode_reply(self.tokens)) if self.episode is None else self.episode.reward()

    def ended(self, tokenizer: Tokenizer, verdict: float | Failed) -> Rollout:
        """What became of it, with its reward."""
        fault = self.fault or (verdict.reason if isinstance(verdict, Failed) else "")
        reward = 0.0 if fault or isinstance(verdict, Failed) else verdict
        text, passed = tokenizer.decode_reply(self.tokens), reward >= 1.0 and not self.truncated
        return Rollout(
            self.tokens, self.log_probs, text, reward, passed, self.truncated, self.mask, self.versions,
            self.routes, fault,
        )  # fmt: skip

    def state(self) -> dict[str, Any]:
        """What `restored` needs beside the prompt; JSON."""
        return {
            "stream": self.stream, "tokens": self.tokens, "log_probs": self.log_probs, "mask": self.mask,
            "versions": self.versions, "response": self.response.tokens,
            "response_log_probs": self.response.log_probs, "response_versions": self.response_versions,
            "turn": self.turn, "truncated": self.truncated, "over": self.over, "fault": self.fault,
            "routes": None if self.routes is None else self.routes.tolist(),
        }  # fmt: skip

    @classmethod
    def restored(cls, prompt: Prompt, state: dict[str, Any], tokenizer: Tokenizer) -> Trajectory:
        """The trajectory that gave `state`.

        Raises:
            StorageError: the environment says something else to its responses than it did then.
        """
        own = dict(state)
        own["routes"] = None if own["routes"] is None else np.array(own["routes"], dtype=np.int16)
        response = Completion(own.pop("response"), own.pop("response_log_probs"), "paused")
        made = cls(prompt, own.pop("stream"), prompt.begin() if prompt.begin else None, response=response, **own)
        if made.episode is not None and not made.fault:
            made._replay(made.episode, tokenizer)
        return made

    def _replay(self, episode: Episode, tokenizer: Tokenizer) -> None:
        """Bring a fresh episode to where it was: a response that was whole ends in the token that ends a turn."""
        at = turn = 0
        for end, (token, sampled) in enumerate(zip(self.tokens, self.mask, strict=True), start=1):
            if end <= at or not sampled or token != tokenizer.im_end_id:
                continue
            follows = episode.advance(tokenizer.decode_reply(self.tokens[at:end]))
            at, turn = end, turn + 1
            if end < len(self.tokens) or not self.over:
                at = end + len(follows or [])
                if follows is None or list(follows) != self.tokens[end:at] or any(self.mask[end:at]):
                    raise StorageError(
                        f"the environment does not answer response {turn} of a paused dialogue as it did before the "
                        "checkpoint: its tasks or its code are other ones; begin the training anew"
                    )
