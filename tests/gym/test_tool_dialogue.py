"""Whole dialogues as an environment: the oracle passes, the idle and the half-done fail, tokens are the chat's."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from random import Random
from typing import Any

import pytest

from k2core.agentic.dialogues.oracle import OracleAgent
from k2core.agentic.domains.taxonomy import domains
from k2core.agentic.tasks.task import TaskMaker
from k2core.agentic.tools.evolve import assign_splits, evolve, plain_tools
from k2core.chat.parser import ToolCall
from k2core.chat.template import encode_dialogue, reply_text
from k2core.chat.tokenizer import Tokenizer
from k2core.gym.prompts import prompt_of
from k2core.gym.tool_call import ToolCall as FirstReplies
from k2core.gym.tool_dialogue import ToolDialogue, with_dialogues

TOOLS = {
    tool.name: tool
    for domain in domains().values()
    for tool in assign_splits(evolve(domain, 8, 1)[0], {plain.name for plain in plain_tools(domain)})
}
MIX = {"single": 0.3, "parallel": 0.2, "chain": 0.2, "ask": 0.2, "none": 0.1}
TASKS = [TaskMaker(TOOLS, MIX, 3).task("train", number) for number in range(40)]
ENVIRONMENT = ToolDialogue(FirstReplies(TOOLS, {"train": TASKS, "heldout": TASKS[:3]}))
TOKENIZER = Tokenizer.train(["a tool said that the task is done and the task said that a tool is done"], 280)


Replies = Callable[[list[dict[str, Any]]], dict[str, Any]]


def played(number: int, replies: Replies) -> tuple[float, list[int], list[dict[str, Any]]]:
    """Reward, tokens as a rollout has them, and messages of training item `number`."""
    item = ENVIRONMENT.item(0, "train", number)
    episode = ENVIRONMENT.episode(item, TOKENIZER)
    tokens, made = list(prompt_of(ENVIRONMENT, item, TOKENIZER).tokens), count()
    while True:
        reply = replies(episode._messages)
        calls = [
            ToolCall(f"functions.{call['name']}:{next(made)}", call["name"], call["arguments"]).wire()
            for call in reply.get("tool_calls", [])
        ]
        text = reply_text({**reply, "tool_calls": calls})
        tokens += TOKENIZER.encode(text, allow_special=True)
        follows = episode.advance(text)
        if follows is None:
            return episode.reward(), tokens, episode._messages
        tokens += follows


def oracle(number: int) -> Replies:
    task = ENVIRONMENT.item(0, "train", number).meta["task"]
    return OracleAgent(task["goal"], {name: TOOLS[name] for name in task["tools"]}, Random(number)).reply


def idle(messages: list[dict[str, Any]]) -> dict[str, Any]:
    return {"role": "assistant", "content": "Done."}


@pytest.mark.parametrize("number", range(len(TASKS)))
def test_the_oracle_passes_and_its_tokens_are_those_of_the_whole_dialogue(number: int) -> None:
    reward, tokens, messages = played(number, oracle(number))
    item = ENVIRONMENT.item(0, "train", number)
    assert reward == 1.0
    assert tokens == encode_dialogue(TOKENIZER, messages, item.tools)[0]


def test_known_wrong_dialogues_fail() -> None:
    def halfway(number: int) -> Replies:
        """The oracle, who says "Done." where a second reply is due."""
        right = oracle(number)
        return lambda messages: idle(messages) if any(m["role"] == "assistant" for m in messages) else right(messages)

    numbers = range(len(TASKS))
    assert not any(played(number, idle)[0] for number in numbers)
    due = [number for number in numbers if ENVIRONMENT.item(0, "train", number).meta["gold_calls"]]
    reading = [n for n in due if ENVIRONMENT.item(0, "train", n).meta["task"]["kind"] == "chain"]
    assert due and reading and not any(played(number, halfway(number))[0] for number in reading)


def test_a_malformed_reply_ends_it_without_reward() -> None:
    item = ENVIRONMENT.item(0, "train", 0)
    episode = ENVIRONMENT.episode(item, TOKENIZER)
    assert episode.advance("<|tool_calls_section_begin|>nothing") is None
    assert episode.reward() == 0.0


def test_one_reply_counts_only_where_it_ends_the_dialogue() -> None:
    by_kind = {ENVIRONMENT.item(0, "train", n).meta["task"]["kind"]: ENVIRONMENT.item(0, "train", n) for n in range(40)}
    assert ENVIRONMENT.score(by_kind["none"], reply_text(by_kind["none"].gold)) == 1.0
    assert ENVIRONMENT.score(by_kind["single"], reply_text(by_kind["single"].gold)) == 0.0


def test_samples_do_not_share_a_world() -> None:
    """The second dialogue with an item begins where the first began."""
    first, second = (played(1, oracle(1)) for _ in range(2))
    assert first == second


def test_the_first_items_have_every_kind() -> None:
    kinds = {ENVIRONMENT.item(0, "train", number).meta["task"]["kind"] for number in range(25)}
    assert kinds == set(MIX)
    played_whole = with_dialogues({"tool_call": ENVIRONMENT.first_replies})["tool_dialogue"]
    assert played_whole.item(0, "train", 3) == ENVIRONMENT.item(0, "train", 3)
