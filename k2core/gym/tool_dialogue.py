"""Whole dialogues on tool tasks: a user with a persona, tools that change a world, reward from how it all ends.

Each sample has a fresh world and a fresh user. The judge looks at the end state, at what tools returned and at the last
answer (`k2core/agentic/tasks/judge.py`), as tau2-bench does. Where `tool_call` rewards the first reply, this rewards
what comes of it: reading a result, the next call, the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from k2core.agentic.dialogues.dialogue import Message, turns
from k2core.agentic.dialogues.model_agent import message_of
from k2core.agentic.tasks.judge import Evidence, judge
from k2core.agentic.tasks.task import Task
from k2core.agentic.tools.simulator import Simulator
from k2core.agentic.tools.specs import ToolSpec
from k2core.chat.template import encode_continuation
from k2core.gym.base import Environment, Item, Split
from k2core.gym.tool_call import ToolCall
from k2core.storage.split import fraction_of

if TYPE_CHECKING:
    from k2core.chat.tokenizer import Tokenizer


class DialogueEpisode:
    """One dialogue under way, in a world of its own; `encode` makes tokens of what follows a reply."""

    def __init__(
        self, task: Task, tools: Mapping[str, ToolSpec], encode: Callable[[Sequence[Message]], Sequence[int]]
    ) -> None:
        self._task, self._encode = task, encode
        self._world = Simulator({name: tools[name] for name in task["tools"]}, task["initial_state"])
        self._turns = turns(task, self._world)
        self._messages = next(self._turns)

    def advance(self, response: str) -> Sequence[int] | None:
        """What the tools or the user say to the response, as tokens; None once the dialogue is over."""
        said = len(self._messages) + 1
        try:
            self._messages = self._turns.send(message_of(response))
        except StopIteration as end:
            self._messages = end.value
            return None
        return self._encode(self._messages[said:])

    def reward(self) -> float:
        """1 if the judge passes the dialogue as it is now, else 0: a share of checks would pay for half a job."""
        return float(judge(self._task, Evidence.of(self._messages, self._world)).passed)


@dataclass(frozen=True)
class ToolDialogue:
    """The tasks of `first_replies`, played whole. They come mixed, so that the first few have tasks of every kind."""

    first_replies: ToolCall
    name: str = "tool_dialogue"
    order: dict[Split, list[int]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        for split, tasks in self.first_replies.tasks.items():
            self.order[split] = sorted(range(len(tasks)), key=lambda number: fraction_of(tasks[number]["id"]))

    @property
    def max_new_tokens(self) -> int:
        """Token budget of one reply."""
        return self.first_replies.max_new_tokens

    def size(self, split: Split) -> int:
        """The number of tasks."""
        return self.first_replies.size(split)

    def item(self, seed: int, split: Split, index: int) -> Item:
        """Task number `index` of the split, in an order by hash."""
        return self.first_replies.item(seed, split, self.order[split][index])

    def score(self, item: Item, completion: str) -> float:
        """1 if the dialogue that ends with this one reply passes."""
        episode = DialogueEpisode(item.meta["task"], self.first_replies.tools, lambda messages: ())
        return episode.reward() if episode.advance(completion) is None else 0.0

    def episode(self, item: Item, tokenizer: Tokenizer) -> DialogueEpisode:
        """A dialogue on the item's task."""
        encode = partial(encode_continuation, tokenizer)
        return DialogueEpisode(item.meta["task"], self.first_replies.tools, encode)


def with_dialogues(environments: Mapping[str, Environment]) -> dict[str, Environment]:
    """`environments`, and their tool tasks as whole dialogues."""
    first_replies = environments["tool_call"]
    assert isinstance(first_replies, ToolCall)
    played = ToolDialogue(first_replies)
    return {**environments, played.name: played}
