"""Tasks of the richer kinds: proved in both directions, and followed by the oracle by what it reads and hears."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seen import unseen, words_of

from k2core.agentic.catalogue.entries import catalogue
from k2core.agentic.dialogues.dialogue import converse
from k2core.agentic.dialogues.llm_judge import judged, sample
from k2core.agentic.dialogues.oracle import OracleAgent, words
from k2core.agentic.dialogues.play import Player
from k2core.agentic.dialogues.proof import Silent, fault, wrong_ways
from k2core.agentic.domains.taxonomy import domains
from k2core.agentic.tasks.judge import Evidence, Verdict, judge, judge_completion
from k2core.agentic.tasks.richer import KINDS, STORE, RicherMaker
from k2core.agentic.tasks.script import literals
from k2core.agentic.tasks.task import Task, TaskMaker, gold_reply
from k2core.agentic.tools import gate
from k2core.agentic.tools.evolve import plain_tools, world_tools
from k2core.agentic.tools.policy import SESSION
from k2core.agentic.tools.simulator import Outcome, Simulator, State, state_hash
from k2core.agentic.tools.specs import ToolSpec
from k2core.agentic.worlds.world import worlds
from k2core.chat.parser import ToolCall
from k2core.chat.template import reply_text

Messages = list[dict[str, Any]]
WORLDS = {tool.name: tool for world in worlds().values() for tool in world_tools(world)}


def _some_of_the_catalogue() -> dict[str, ToolSpec]:
    some, whole = [e for e in catalogue() if e.plural in ("hotels", "tours", "flights")], gate.catalogue
    gate.catalogue = lambda: some  # type: ignore[assignment]
    try:
        return {tool.name: tool for tool in gate.from_catalogue(330, 1, list(WORLDS))[0]}
    finally:
        gate.catalogue = whole


TOOLS = WORLDS | _some_of_the_catalogue()


def tasks_of(kind: str, count: int, calls: tuple[float, ...] = (1, 1, 1, 1), split: Any = "train") -> list[Task]:
    """Proved tasks, as the stage makes them."""
    maker, found = RicherMaker(TOOLS, {kind: 1}, calls, 7), []
    for number in range(count):
        tried = (maker.task(split, number, attempt) for attempt in range(20))
        found.append(next(task for task in tried if not fault(task, TOOLS)))
    return found


BY_KIND = {kind: tasks_of(kind, 15) for kind in KINDS}
ALL = [task for tasks in BY_KIND.values() for task in tasks]


def play(
    task: Task, state: State | None = None, goal: dict[str, Any] | None = None
) -> tuple[Messages, Simulator, Verdict]:
    declared = {name: TOOLS[name] for name in task["tools"]}
    world = Simulator(declared, task["initial_state"] if state is None else state)
    messages = converse(task, OracleAgent(goal or task["goal"], declared, Random(task["id"])), world)
    return messages, world, judge(task, Evidence.of(messages, world))


def calls_of(messages: Messages) -> list[tuple[str, dict[str, Any]]]:
    made = [call["function"] for message in messages for call in message.get("tool_calls", [])]
    return [(call["name"], json.loads(call["arguments"])) for call in made]


@pytest.mark.parametrize("kind", KINDS)
def test_nearly_every_task_is_proved_at_once(kind: str) -> None:
    for split in ("train", "heldout"):
        maker = RicherMaker(TOOLS, {kind: 1}, [1, 1, 1], 3)
        faults = [fault(maker.task(split, number), TOOLS) for number in range(20)]
        assert faults.count("") >= 17, faults


@pytest.mark.parametrize("kind", KINDS)
def test_the_gold_first_reply_passes_and_silence_does_not(kind: str) -> None:
    for task in BY_KIND[kind]:
        assert judge_completion(task, TOOLS, reply_text(gold_reply(task))).passed, task
        assert not judge_completion(task, TOOLS, "Done.<|im_end|>").passed


def test_a_task_is_a_function_of_its_number_and_the_five_kinds_know_nothing_of_these() -> None:
    maker = RicherMaker(TOOLS, {"steps": 1, "mind": 1}, [1, 1], 5)
    again = RicherMaker(TOOLS, {"steps": 1, "mind": 1}, [1, 1], 5)
    assert [maker.task("train", i) for i in range(4)] == [again.task("train", i) for i in range(4)]
    assert maker.task("train", 1) != maker.task("train", 1, attempt=1)
    mix = {"single": 0.6, "parallel": 0.2, "chain": 0.1, "ask": 0.1, "none": 0.1}
    plain = {tool.name: tool for domain in domains().values() for tool in plain_tools(domain)}
    made = [[TaskMaker(tools, mix, 2).task("heldout", i) for i in range(40)] for tools in (plain, plain | WORLDS)]
    assert made[0] == made[1]


@pytest.mark.parametrize("count", range(2, 9))
def test_each_call_of_a_chain_needs_what_the_one_before_returned(count: int) -> None:
    only = tuple(float(length == count) for length in range(2, 9))
    for task in tasks_of("steps", 4, only):
        messages, _, verdict = play(task)
        assert verdict.passed and len(calls_of(messages)) == count == len(task["gold_calls"])
        for number, call in enumerate(task["goal"]["calls"][1:], 1):
            sides = [side for rule in call["unless"] for left, _, right in rule["when"] for side in (left, right)]
            read = [value["from"][0] for value in [*call["arguments"].values(), *sides] if "from" in str(value)
                    and isinstance(value, dict)]  # fmt: skip
            assert read and max(read) < number
        for last in range(count):  # whatever is cut off, the task is not done
            cut = task["goal"] | {"calls": task["goal"]["calls"][:last]}
            assert not play(task, goal=cut)[2].passed


def test_a_branch_follows_the_world_as_it_is_now() -> None:
    for task in BY_KIND["branch"]:
        (name, _, right), *_ = task["goal"]["calls"][-1]["unless"][0]["when"]
        assert name["from"][0] < len(task["goal"]["calls"]) - 2 and isinstance(right[0], str | int)
        taken = calls_of(play(task)[0])[-1]
        field, state = name["from"][1], copy.deepcopy(task["initial_state"])
        for table in state.values():
            for record in table.values():
                if field in record:
                    record[field] = right[0] if record[field] != right[0] else "something else"
        assert calls_of(play(task, state)[0])[-1] != taken
        assert not play(task, goal=dict(wrong_ways(task))["heedless"])[2].passed


@pytest.mark.parametrize("kind", ["forbidden", "rights", "insist"])
def test_what_the_policy_forbids_is_looked_at_and_declined(kind: str) -> None:
    for task in BY_KIND[kind]:
        messages, world, verdict = play(task)
        assert verdict.passed and state_hash(world.state) == state_hash(task["initial_state"])
        reads = calls_of(messages)
        assert reads and all(name.startswith(("get_", "find_")) for name, _ in reads)
        assert any(rule in messages[-1]["content"] for rule in task["system"].split(". ")[1:-1])
        unread = judge(task, Evidence([*messages[:2], messages[-1]], [], state_hash(task["initial_state"])))
        assert not unread.passed and unread.checks["declines"]  # the right words alone
        _, world, verdict = play(task, goal=dict(wrong_ways(task))["heedless"])
        assert not verdict.passed and "not allowed" in world.outcomes[-1].text
        assert state_hash(world.state) == state_hash(task["initial_state"])  # the tool itself refuses
    users = [message["role"] for message in messages].count("user")
    assert users == (2 if kind == "insist" else 1)


def test_an_allowed_wish_has_been_looked_at_too() -> None:
    for task in BY_KIND["allowed"]:
        assert play(task)[2].passed
        *_, change = task["goal"]["calls"]
        blind = judge(
            task, Evidence([{"role": "assistant", "content": task["gold_answer"]}], [], task["rubric"][1]["hash"])
        )
        assert not blind.checks["facts"] and change["unless"]


def test_people_change_their_mind_correct_themselves_and_stop() -> None:
    for kind, asked in (("mind", "."), ("correct", "."), ("stop", "?")):
        for task in BY_KIND[kind]:
            messages, _, verdict = play(task)
            assert verdict.passed, verdict
            (turn,) = task["later"]
            place = next(i for i, message in enumerate(messages) if message["content"] == turn["says"])
            assert messages[place]["role"] == "user" and messages[place - 1]["content"].rstrip().endswith(asked)
            calls = calls_of(messages)
            assert len(calls) == (0 if kind == "stop" else len(task["gold_calls"]))
            if kind != "stop":
                assert calls[-1][0] == calls[-2][0] and calls[-1][1] != calls[-2][1]
            deaf = "pushy" if kind == "stop" else "deaf"
            assert deaf in dict(wrong_ways(task)) and not fault(task, TOOLS)


def test_every_condition_of_a_store_is_met_and_overcome() -> None:
    seen = set()
    for task in tasks_of(STORE, 60):
        store = task["initial_state"][SESSION]["store"]
        messages, world, verdict = play(task)
        assert verdict.passed
        results = " ".join(outcome.text for outcome in world.outcomes)
        mark = {"plain": "", "timeout": "timed out", "late": "timed out", "stale": "a stale copy", "denied": "denied",
                "ambiguous": '"matches"', "pages": '"next"', "partial": '"failed"'}[store["condition"]]  # fmt: skip
        assert mark in results
        if store["condition"] == "late":  # the work was done before the time-out
            assert world.outcomes[0].state == state_hash(world.state) != state_hash(task["initial_state"])
        if store["condition"] == "stale":
            assert not any(str(old) == messages[-1]["content"].split()[-1] for old in store["old"].values())
        if store["condition"] == "ambiguous":
            assert [m["role"] for m in messages].count("user") == 2
        if store["condition"] == "denied":
            assert "permission denied" in messages[-1]["content"]
        seen.add(store["condition"])
    assert seen == {"plain", "timeout", "late", "stale", "denied", "ambiguous", "pages", "partial"}


def test_no_word_of_the_oracle_comes_from_nowhere() -> None:
    for task in ALL:
        (row, *_) = Player(TOOLS, 3, 0.0).oracle(task, 1, 0.0)
        assert not unseen(row["messages"], row["tools"]), row["messages"]
        later = [turn["says"] for turn in task["later"]]
        told = words_of([task["system"], task["instruction"], later, row["tools"]])
        for call in () if task["kind"] == "stop" else task["goal"]["calls"]:  # whose value is never said
            slots = {name: value for name, value in call["answer"].items() if name != "words"}
            held = [call["arguments"], slots, [rule["when"] for rule in call["unless"]]]
            said = {word for text in literals(held) for word in words_of(text)} - {"not_in", "in", "not", "above"}
            assert said <= told, (task["instruction"], said - told)


def test_heldout_tasks_have_a_world_that_training_never_sees() -> None:
    makers = [[RicherMaker(TOOLS, {"steps": 1}, [1], 1).task(split, i)["domain"] for i in range(60)]
              for split in ("train", "heldout")]  # fmt: skip
    unseen_ones = {name for name, world in worlds().items() if world.heldout}
    assert unseen_ones and set(makers[1]) - set(makers[0]) == unseen_ones


HOSTILE = ["", "[" * 9999, '{"error": "ambiguous"}', '{"error": "ambiguous", "matches": [{}]}', '{"found": []}', "{}",
           '{"found": [{"x": null}]}', '{"state": ["a"], "client": {}}', "NaN", '"\\ud800"', "a stale copy, try again",
           '{"failed": 3}', '{"next": {}}']  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(st.sampled_from(ALL), st.lists(st.sampled_from(HOSTILE), min_size=12, max_size=12))
def test_whatever_a_tool_returns_the_oracle_ends_with_a_sentence(task: Task, texts: list[str]) -> None:
    class Hostile(Simulator):
        def _outcome(self, call: ToolCall) -> Outcome:
            return Outcome(texts[len(self.outcomes) % 12])

    declared = {name: TOOLS[name] for name in task["tools"]}
    for mistake in (None, "wrong_value"):
        agent = OracleAgent(task["goal"], declared, Random(0), mistake)
        messages = converse(task, agent, Hostile(declared, task["initial_state"]))
        assert messages[-1]["role"] == "assistant"
        json.dumps(messages, ensure_ascii=False).encode()


def test_mistakes_are_rejected() -> None:
    for kind, tasks in BY_KIND.items():
        rows = [row for task in tasks for row in Player(TOOLS, 1, 0.0).oracle(task, 1, 1.0)]
        assert sum(row["verdict"]["passed"] for row in rows) <= 4, kind


def test_a_proof_finds_what_is_wrong_with_a_task() -> None:
    task = next(task for task in BY_KIND["allowed"] if len(task["gold_calls"]) > 1)
    lax = [check for check in task["rubric"] if check["check"] == "valid_calls"]
    assert fault(task | {"rubric": lax}, TOOLS) == "nothing"
    assert fault(task | {"rubric": [*task["rubric"], {"check": "mentions", "all": ["zzz"]}]}, TOOLS) == "gold"
    done = [check for check in task["rubric"] if check["check"] == "facts"]
    first = [{"check": "facts", "each": done[0]["each"][:1]}]
    assert fault(task | {"rubric": lax + first}, TOOLS) == "unfinished"
    assert Silent("x").reply([])["content"] == "x"


class Stub:
    """Answers as told, and keeps what it was asked."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked = list(answers), []

    def complete(self, messages: list[dict[str, str]], **_: object) -> str:
        self.asked.append(messages[-1]["content"])
        return self.answers.pop(0)


def test_the_llm_judge_is_compared_with_the_rules_and_drops_what_is_not_clear() -> None:
    task = BY_KIND["forbidden"][0]
    good, bad = (Player(TOOLS, 1, 0.0).oracle(task, 1, rate)[0] for rate in (0.0, 1.0))
    rows = sample([good, bad, copy.deepcopy(good)], 3)
    assert [row["verdict"]["passed"] for row in rows] == [True, True, False]
    yes, no = '{"reason": "r", "done": "yes", "clear": "yes"}', '{"reason": "r", "done": "yes", "clear": "no"}'
    llm: Any = Stub(yes, no, yes)
    found = judged(llm, rows, {task["id"]: task}, 0)
    assert found == {"llm_judge/asked": 3.0, "llm_judge/verdicts": 3.0, "llm_judge/agreement": 2 / 3,
                     "llm_judge/agreement/accepted": 1.0, "llm_judge/agreement/rejected": 0.0}  # fmt: skip
    assert [row["verdict"]["passed"] for row in rows] == [True, False, False]
    assert rows[1]["verdict"]["checks"]["clear"] is False
    assert task["instruction"].replace('"', "") in llm.asked[0] and "may not do it" in llm.asked[0]
    for nonsense in ("", "[1]", '{"done": 1}'):
        before = copy.deepcopy(rows)
        assert judged(Stub(*[nonsense] * 3), rows, {task["id"]: task}, 0)["llm_judge/verdicts"] == 0.0  # type: ignore[arg-type]
        assert rows == before


def test_the_oracle_has_words_for_what_is_new() -> None:
    assert {"forbidden", "stopped", "ambiguous", "states"} <= set(words())
