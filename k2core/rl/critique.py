"""Self-critique on open prompts: the last replies of accepted dialogues, sampled again and compared (K2 §3.2.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from k2core.gym.base import response_text
from k2core.gym.demonstrations import Trajectory
from k2core.inference.rollouts import Prompt, Rollout, encode_prompt
from k2core.rl.critic import RUBRIC, win_rates
from k2core.rl.preferences import REPLY_CHARACTERS, REQUEST_CHARACTERS

if TYPE_CHECKING:
    from torch import Tensor

    from k2core.chat.tokenizer import Tokenizer

MAX_NEW_TOKENS = 48


@dataclass(frozen=True)
class OpenRequest:
    """A dialogue up to its last reply, and what the critic is told about it."""

    prompt: Prompt
    request: str


def open_requests(tokenizer: Tokenizer, trajectories: Sequence[Trajectory], context: int) -> list[OpenRequest]:
    """Dialogues that end with an assistant's words and whose prompt leaves room for a reply in `context`."""
    requests = []
    for trajectory in trajectories:
        *before, last = trajectory["messages"]
        if last["role"] != "assistant" or last.get("tool_calls") or not before:
            continue
        tokens = encode_prompt(tokenizer, before, trajectory["tools"])
        if len(tokens) + MAX_NEW_TOKENS <= context:
            text = " | ".join(m["content"] for m in before if m["role"] in ("user", "tool"))
            requests.append(OpenRequest(Prompt(tokens, MAX_NEW_TOKENS, lambda _: 0.0), text[-REQUEST_CHARACTERS:]))
    return requests


class Critique:
    """Win rates of the responses to open requests (by number), by the critic `model`."""

    def __init__(
        self, model: Callable[..., Tensor], tokenizer: Tokenizer, requests: Sequence[OpenRequest], context: int
    ) -> None:
        self.model, self.tokenizer, self.requests, self.context = model, tokenizer, requests, context

    def __call__(self, numbers: Sequence[int], groups: Sequence[Sequence[Rollout]]) -> list[list[float]]:
        asked = [
            (self.requests[number].request, [response_text(rollout.text)[-REPLY_CHARACTERS:] for rollout in group])
            for number, group in zip(numbers, groups, strict=True)
        ]
        return win_rates(self.model, self.tokenizer, asked, RUBRIC, self.context)
