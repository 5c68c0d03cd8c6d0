"""The Enforcer's scores: a call that the budget cut is a kind of its own."""

from pathlib import Path

import pytest

from k2core.evals.benchmarks import enforced_tool_calls
from k2core.evals.environments import Attempt
from k2core.evals.settings import Settings
from k2core.evals.subject import Subject
from k2core.gym.base import Item, answer, question
from k2core.gym.prompts import prompt_of
from k2core.inference.rollouts import Rollout

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]  # fmt: skip
GOLD = [{"name": "weather", "arguments": {"city": "Bonn"}}]
BEGUN = '<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{"city": "Bonn'
RIGHT = BEGUN + '"}<|tool_call_end|><|tool_calls_section_end|><|im_end|>'


class Characters:
    """A tokenizer, where only prompts are made."""

    def encode(self, text):
        return [*map(ord, text)]

    def id_of(self, special):
        return 0


class Tools:
    """An environment of one item."""

    name, max_new_tokens = "tool_call", 8

    def score(self, item, completion):
        return 1.0


def test_scores(monkeypatch):
    def one(text, gold, truncated=False):
        item = Item("k", question("q"), answer("a"), TOOLS, {"gold_calls": gold})
        return Attempt(item, [Rollout([1], [0.0], text, 0.0, False, truncated, [1])])

    tried = [
        one(RIGHT, GOLD), one(RIGHT.replace("Bonn", "Rome"), GOLD), one(BEGUN, GOLD, truncated=True),
        one("No.<|im_end|>", GOLD), one("On and on", [], truncated=True),
    ]  # fmt: skip
    asked = {}

    def attempt(model, tokenizer, environments, **options):
        asked.update(options, environments=environments)
        return {"tool_call": tried}

    monkeypatch.setattr(enforced_tool_calls, "attempt", attempt)
    monkeypatch.setattr(enforced_tool_calls, "Enforcer", lambda tokenizer: "the enforcer")
    settings = Settings(context=32, items=5, samples=4, dialogues=1, readable=0)
    subject = Subject(None, None, Path(), {"tool_call": "tools", "sort_numbers": "text"}, settings, seed=7)
    values = {name: score["value"] for name, score in enforced_tool_calls.measure(subject).scores.items()}
    assert values == pytest.approx({
        "tool_calls/enforced/schema_accuracy": 2 / 2, "tool_calls/enforced/cut_off": 1 / 3,
        "tool_calls/enforced/valid_when_due": 2 / 4, "tool_calls/enforced/trigger_accuracy": 4 / 5,
        "tool_calls/enforced/exact": 1 / 4,
    })  # fmt: skip
    assert asked == {
        "environments": {"tool_call": "tools"}, "items": 5, "samples": 1, "temperature": 0.0, "seed": 7,
        "enforcer": "the enforcer",
    }  # fmt: skip


def test_a_prompt_is_held_to_its_items_tools():
    class Recorder:
        def constraint(self, messages, tools):
            return messages, tools

    item = Item("k", question("q"), answer("a"), TOOLS)
    assert prompt_of(Tools(), item, Characters(), Recorder()).constraint == (item.messages, TOOLS)
    assert prompt_of(Tools(), item, Characters()).constraint is None
