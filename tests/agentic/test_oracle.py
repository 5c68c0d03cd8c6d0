"""The oracle: it follows the world that it finds, not the gold; it uses nothing that it has not seen or been told."""

from __future__ import annotations

import copy
import json
import re
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seen import unseen, words_of

from k2core.agentic.dialogues.dialogue import MAX_REPLIES, World, converse
from k2core.agentic.dialogues.oracle import RETRIES, OracleAgent, words
from k2core.agentic.dialogues.play import Player
from k2core.agentic.domains.taxonomy import Draws, domains
from k2core.agentic.tasks.judge import Evidence, judge
from k2core.agentic.tasks.plans import KINDS
from k2core.agentic.tasks.script import Read, Text, at, gold, literals, resolve, stated
from k2core.agentic.tasks.task import Task, TaskMaker
from k2core.agentic.tools.evolve import assign_splits, evolve, plain_tools
from k2core.agentic.tools.simulator import UNAVAILABLE, Outcome, Simulator, State
from k2core.chat.parser import ToolCall

TOOLS = {
    tool.name: tool
    for domain in domains().values()
    for tool in assign_splits(evolve(domain, 14, 1)[0], {plain.name for plain in plain_tools(domain)})
}
BY_KIND = {kind: [TaskMaker(TOOLS, {kind: 1}, 11).task("train", i) for i in range(60)] for kind in KINDS}
ALL = [task for tasks in BY_KIND.values() for task in tasks]
FOUND = [task for task in ALL if task["gold_calls"] and "not found" not in str(task["rubric"])]
Messages = list[dict[str, Any]]


class Failing(Simulator):
    """Its first `times` calls find the tool unavailable."""

    times = 1

    def _outcome(self, call: ToolCall) -> Outcome:
        return Outcome({"error": UNAVAILABLE}) if len(self.outcomes) < self.times else super()._outcome(call)


def declared(task: Task) -> dict[str, Any]:
    return {name: TOOLS[name] for name in task["tools"]}


def play(task: Task, state: State | None = None, world: World | None = None, seed: str = "") -> Messages:
    world = world or Simulator(declared(task), task["initial_state"] if state is None else state)
    return converse(task, OracleAgent(task["goal"], declared(task), Random(f"{task['id']}/{seed}")), world)


def calls_of(messages: Messages) -> list[tuple[str, dict[str, Any]]]:
    made = [call["function"] for message in messages for call in message.get("tool_calls", [])]
    return [(call["name"], json.loads(call["arguments"])) for call in made]


def mentions(text: str, value: Any) -> bool:
    return re.search(rf"(?<!\w){re.escape(str(value))}(?!\w)", text, re.IGNORECASE) is not None


def says(text: str, kind: str) -> bool:
    """Whether one of the ways of saying `kind` stands in the text, whatever is in its slots."""
    ways = [".+".join(map(re.escape, re.split(r"{\w+}", way))) for way in words()[kind]]
    return any(re.search(way, text) for way in ways)


def operation(task: Task, number: int = 0) -> dict[str, Any]:
    return TOOLS[task["gold_calls"][number]["name"]].semantics


def key_of(task: Task, number: int = 0) -> str:
    """Of the record that a gold call is about."""
    names = {field: name for name, field in operation(task, number)["arguments"].items()}
    return task["gold_calls"][number]["arguments"][names[operation(task, number)["key"]]]


def changed(task: Task) -> State:
    """The task's world with another value in every field that is not a key."""
    domain, state = domains()[task["domain"]], copy.deepcopy(task["initial_state"])
    draws = Draws(Random(f"changed/{task['id']}"), "train")
    for record in state[domain.entity].values():
        for name, value in record.items():
            record[name] = domain.fields[name].draw(draws, other_than=value)
    return state


def test_a_read_value_is_answered_as_the_world_has_it_now() -> None:
    reads = [task for task in FOUND if task["kind"] == "single" and operation(task)["kind"] == "get"]
    assert len(reads) > 5
    for task in reads:
        state, field = changed(task), task["goal"]["calls"][0]["answer"]["value"]["from"][1]
        entity, key = operation(task)["entity"], key_of(task)
        answer = play(task, state)[-1]["content"]
        assert mentions(answer, state[entity][key][field])
        old = task["initial_state"][entity][key][field]
        assert not mentions(answer, old) or mentions(f"{key} {state[entity][key][field]}", old)


def test_found_records_and_new_amounts_are_those_of_the_world_now() -> None:
    seen = set()
    for task in (task for task in FOUND if task["kind"] in ("single", "parallel")):
        state = changed(task)
        world = Simulator(declared(task), state)
        answer = play(task, world=world)[-1]["content"]
        for number, outcome in enumerate(world.outcomes):
            kind, reads = operation(task, number)["kind"], task["goal"]["calls"][number]["answer"].get("value")
            assert isinstance(outcome.result, dict)
            if "error" in outcome.result:  # such as an amount that the changed balance does not cover
                assert outcome.result["error"] in answer
            elif reads:
                seen.add(kind)
                value = outcome.result[reads["from"][1]]
                assert all(mentions(answer, each) for each in (value if isinstance(value, list) else [value]))
                assert value or says(answer, "nothing")
    assert seen >= {"find", "adjust", "get", "update"}


def test_the_second_call_of_a_chain_uses_what_the_first_returned() -> None:
    for task in BY_KIND["chain"]:
        state = changed(task)
        (_, read), (_, write) = calls_of(messages := play(task, state))
        reference = task["goal"]["calls"][1]["arguments"]
        (name,) = [name for name, value in reference.items() if isinstance(value, dict)]
        value = state[operation(task)["entity"]][key_of(task)][reference[name]["from"][1]]
        assert read == task["gold_calls"][0]["arguments"]
        assert write[name] == value != task["gold_calls"][1]["arguments"][name]
        assert mentions(messages[-1]["content"], value)
        assert str(task["gold_calls"][1]["arguments"][name]) not in list(literals(reference))


def test_a_record_that_is_gone_is_said_to_be_gone_and_nothing_follows() -> None:
    seen = set()
    for task in FOUND:
        kind, entity = operation(task)["kind"], operation(task)["entity"]
        if kind in ("create", "find"):
            continue
        seen.add((task["kind"], kind))
        state = copy.deepcopy(task["initial_state"])
        del state[entity][key_of(task)]
        messages = play(task, state)
        answer = messages[-1]["content"]
        assert mentions(answer, "no") and mentions(answer, key_of(task)) and says(answer, "missing"), task
        assert len(calls_of(messages)) == (2 if task["kind"] == "parallel" else 1)
    assert {kind for kind, _ in seen} == {"single", "parallel", "chain", "ask"}


def test_a_search_without_hits_and_a_refused_write_are_told_as_they_are() -> None:
    finds = [task for task in FOUND if operation(task)["kind"] == "find"]
    assert finds and all(says(play(task, {})[-1]["content"], "nothing") for task in finds)
    creates = [task for task in BY_KIND["single"] if task["gold_calls"] and operation(task)["kind"] == "create"]
    for task in creates:
        state = {operation(task)["entity"]: {key_of(task): {}}}
        answer = play(task, state)[-1]["content"]
        assert "exists already" in answer and says(answer, "failed") and not says(answer, "created")
    assert creates


def test_a_result_without_what_was_looked_for_is_not_made_up_for() -> None:
    class Odd(Simulator):
        def _outcome(self, call: ToolCall) -> Outcome:
            return Outcome('["a", {"b": 1}]')

    for task in [task for task in FOUND if task["kind"] == "chain"][:10]:
        messages = play(task, world=Odd(declared(task), task["initial_state"]))
        assert len(calls_of(messages)) == 1 and messages[-1]["content"] in words()["unread"]


def test_a_temporary_failure_is_tried_again_in_words_and_not_for_ever() -> None:
    for task in FOUND:
        world = Failing(declared(task), task["initial_state"])
        messages = play(task, world=world)
        made = calls_of(messages)
        assert made[0] in made[1:] and len(made) == len(task["gold_calls"]) + 1
        retries = [m["content"] for m in messages if m.get("tool_calls") and m["content"]]
        assert len(retries) == 1 and retries[0] in words()["retry"]
        verdict = judge(task, Evidence.of(messages, world))
        assert verdict.passed, verdict
    assert RETRIES + 3 <= MAX_REPLIES  # two turns of calls, or a question and one, and the answer
    for task in BY_KIND["single"]:
        world = Failing(declared(task), task["initial_state"])
        world.times = 99
        messages = play(task, world=world)
        assert len(calls_of(messages)) == RETRIES + 1 and says(messages[-1]["content"], "failed")
        assert UNAVAILABLE in messages[-1]["content"]


def test_a_withheld_value_is_asked_for_and_used_only_when_the_user_has_said_it() -> None:
    for task in BY_KIND["ask"]:
        name = task["goal"]["withheld"]
        value = task["goal"]["calls"][0]["arguments"][name]
        messages = play(task)
        assert [message["role"] for message in messages[:4]] == ["system", "user", "assistant", "user"]
        assert messages[2]["content"].endswith("?") and says(messages[2]["content"], "question")
        assert not calls_of(messages[:4]) and mentions(messages[3]["content"], value)
        assert calls_of(messages)[0][1][name] == value
        silent = play({**task, "follow_up": "I do not know."})
        assert not calls_of(silent) and says(silent[-1]["content"], "unsaid")


def test_a_value_that_nobody_said_is_asked_for_though_the_goal_has_it() -> None:
    for task in BY_KIND["single"][:20]:
        mute = {**task, "instruction": "Please help me."}
        messages = play(mute)
        assert len(messages) == 3 and messages[2]["content"].endswith("?")


HOSTILE = [
    "",
    "[" * 100_000,
    '{"error": {"a": ["{value}"]}}',
    '{"found": [{"x": null}, "{0}"]}',
    "NaN",
    '"\\ud800"',
    UNAVAILABLE,
]
SOMETHING = st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | (
    st.dictionaries(st.sampled_from(["error", "found", "balance", "day", "status"]), inner, max_size=3)))  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(FOUND), st.lists(st.sampled_from(HOSTILE) | SOMETHING.map(json.dumps), min_size=8, max_size=8))
def test_whatever_a_tool_returns_the_oracle_ends_with_a_sentence(task: Task, texts: list[str]) -> None:
    class Hostile(Simulator):
        def _outcome(self, call: ToolCall) -> Outcome:
            return Outcome(texts[len(self.outcomes)])

    messages = play(task, world=Hostile(declared(task), task["initial_state"]))
    assert messages[-1]["role"] == "assistant" and messages[-1]["content"]
    json.dumps(messages, ensure_ascii=False).encode()


def test_no_word_of_the_oracle_comes_from_nowhere() -> None:
    player = Player(TOOLS, 3, 0.2)
    for task in ALL:
        (row, *_) = player.oracle(task, 1, 0.0)
        assert not unseen(row["messages"], row["tools"]), row["messages"]
        # The script itself holds no word that is neither said by the user nor declared.
        told = words_of([task["system"], task["instruction"], task["follow_up"], row["tools"]])
        for call in task["goal"]["calls"]:
            slots = {name: value for name, value in call["answer"].items() if name != "words"}
            held = {word for each in (call["arguments"], slots) for text in literals(each) for word in words_of(text)}
            assert held <= told, (task["instruction"], held - told)


def test_a_word_from_nowhere_would_be_noticed() -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The day is Monday."}]
    assert unseen(messages, []) == {"monday", "day"} - words_of(words())


def test_words_vary_and_a_seed_repeats_them() -> None:
    assert all(len(set(ways)) >= 3 for ways in words().values())
    said: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for kind, tasks in BY_KIND.items():
        for seed in range(12):
            said[kind].add(play(tasks[0], seed=str(seed))[2 if kind == "ask" else -1]["content"])
        assert play(tasks[0], seed="1") == play(tasks[0], seed="1")
    assert all(len(ways) >= 3 for ways in said.values()), said


def test_a_script_states_references_and_the_gold_values_apart() -> None:
    argument = {"deep": [Text("SET {} = {}", ("height", Read(7, at(0, "rows", 0, "n"))))], "day": "Friday", "from": "x"}
    assert gold(argument) == {"deep": ["SET height = 7"], "day": "Friday", "from": "x"}
    script = json.loads(json.dumps(stated(argument)))
    assert list(literals(script)) == ["height", "Friday", "x"]
    results = {0: '1 rows\n{"rows": [{"n": 8}, {"n": 9}]}'}
    assert resolve(script, results)["deep"] == ["SET height = 8"]
    assert resolve(at(0, "rows", "*", "n"), results) == [8, 9]
    assert resolve(at(0, find=r"(\d+) rows"), results) == "1"
    for wrong in (at(0, "rows", 5), at(0, "none"), at(0, "rows", "n", "m"), at(0, find="(x+)y")):
        with pytest.raises(LookupError):
            resolve(wrong, results)
