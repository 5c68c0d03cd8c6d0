"""Tasks of every kind: the gold solution passes, known-wrong ones fail, and other paths to the same end pass."""

from __future__ import annotations

import json
import re
from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2core.agentic.dialogues.dialogue import converse
from k2core.agentic.dialogues.oracle import MISTAKES, OracleAgent
from k2core.agentic.domains.taxonomy import domains, split_of
from k2core.agentic.tasks.judge import CHECKS, Evidence, Verdict, judge, judge_completion
from k2core.agentic.tasks.personas import heldout_personas, personas
from k2core.agentic.tasks.plans import KINDS
from k2core.agentic.tasks.task import HELDOUT_PERSONA_SHARE, Task, TaskMaker, gold_reply
from k2core.agentic.tools.evolve import assign_splits, evolve, plain_tools
from k2core.agentic.tools.simulator import Simulator, state_hash
from k2core.chat.parser import ToolCall
from k2core.chat.template import reply_text

TOOLS = {
    tool.name: tool
    for domain in domains().values()
    for tool in assign_splits(evolve(domain, 14, 1)[0], {plain.name for plain in plain_tools(domain)})
}
MIX = {"single": 0.6, "parallel": 0.12, "chain": 0.08, "ask": 0.1, "none": 0.1}
BY_KIND = {kind: [TaskMaker(TOOLS, {kind: 1}, 5).task("train", i) for i in range(25)] for kind in KINDS}
ALL = [task for tasks in BY_KIND.values() for task in tasks]


BITS = ["<|tool_calls_section_begin|>", "<|tool_call_begin|>", "functions.get_event:0", "<|tool_call_argument_begin|>",
        '{"title": 1}', "<|tool_call_end|>", "<|tool_calls_section_end|>", "<|im_end|>"]  # fmt: skip


def play(task: Task, mistake: str | None = None, failure_rate: float = 0.0) -> tuple[Verdict, list[dict]]:
    declared = {name: TOOLS[name] for name in task["tools"]}
    world = Simulator(declared, task["initial_state"], task["id"], failure_rate)
    messages = converse(task, OracleAgent(task["goal"], declared, Random(task["id"]), mistake), world)
    return judge(task, Evidence.of(messages, world)), messages


def section(*calls: tuple[str, dict]) -> str:
    made = [
        ToolCall(f"functions.{name}:{i}", name, json.dumps(arguments)).wire()
        for i, (name, arguments) in enumerate(calls)
    ]
    return reply_text({"content": "", "tool_calls": made})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("failure_rate", [0.0, 0.3])
def test_the_gold_dialogue_passes(kind: str, failure_rate: float) -> None:
    verdicts = [play(task, None, failure_rate) for task in BY_KIND[kind]]
    passed = [verdict.passed or len(messages) > 10 for verdict, messages in verdicts]  # cut off after many failures
    assert all(passed), next(v for v, _ in verdicts if not v.passed)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_rejected(kind: str, mistake: str) -> None:
    # Not all: a wrong value for an entity that does not exist, or a twin of the right tool, does no harm.
    verdicts = [play(task, mistake)[0].passed for task in BY_KIND[kind]]
    assert sum(verdicts) <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_gold_first_reply_passes_and_wrong_ones_fail(kind: str) -> None:
    for task in BY_KIND[kind]:
        gold = judge_completion(task, TOOLS, reply_text(gold_reply(task)))
        assert gold.passed and gold.score == 1.0
        calls = [(call["name"], call["arguments"]) for call in task["first_turn"]["calls"]]
        wrong = ["", "Done.<|im_end|>", "<|tool_calls_section_begin|>"]
        wrong += [section((task["tools"][0], {})), section(("x", {}))]
        if calls:
            cut = section(*calls).replace("<|tool_calls_section_end|>", "")
            wrong += [cut, section(*calls, calls[0]), section(*calls[1:])]
            name, arguments = calls[0]
            for key in arguments:
                changed = {**arguments, key: "zzz" if isinstance(arguments[key], str) else arguments[key] + 1}
                wrong.append(section((name, changed), *calls[1:]))
        for text in wrong:
            verdict = judge_completion(task, TOOLS, text)
            missing = "not found" in str(task["first_turn"]["facts"])  # then other details of the call are harmless
            assert missing or (not verdict.passed and verdict.score < 1.0), (task, text)


def test_a_call_where_none_is_due_and_silence_where_one_is_score_nothing() -> None:
    assert judge_completion(BY_KIND["single"][0], TOOLS, "I added it.<|im_end|>").score == 0.0
    for kind in ("ask", "none"):
        task = BY_KIND[kind][0]
        assert judge_completion(task, TOOLS, section((task["tools"][0], {}))).score == 0.0


def test_an_answer_that_says_something_else_of_what_was_deleted_fails() -> None:
    """Its words are those of both goals, but the second sentence tells of a change where a contact was deleted."""
    tasks = [task for kind in ("single", "parallel") for task in BY_KIND[kind]]
    judged = 0
    for task in tasks:
        for check in (check for check in task["rubric"] if check["check"] == "deletions"):
            messages = play(task)[1]
            for (key,) in check["each"]:
                judged += 1
                false = f"{task['gold_answer'].split('.')[0]}. The city of {key} is now Rome."
                gold = Evidence(messages, [], "")
                assert CHECKS["deletions"](check, gold)
                other = [*messages[:-1], {"role": "assistant", "content": re.sub("(?i)deleted", "changed", false)}]
                assert not CHECKS["deletions"](check, Evidence(other, [], "")), (task, false)
    assert judged > 3


def test_another_path_to_the_same_end_passes() -> None:
    """An update, or deletion and a new entry: the end state counts. Half of it does not."""
    tools = {tool.name: tool for tool in plain_tools(domains()["calendar"])}
    state = {"event": {"team visit": {"day": "Monday", "time": "09:00", "room": "Oak", "status": "planned"}}}
    end = {"event": {"team visit": {"day": "Friday", "time": "09:00", "room": "Oak", "status": "planned"}}}
    task = {"tools": ["update_event", "add_event", "delete_event"], "initial_state": state, "first_turn": {
        "calls": [{}, {}], "state": state_hash(end), "facts": [["team visit"]], "says": [],
        "tools": ["update_event", "add_event", "delete_event"]}}  # fmt: skip
    once = section(("update_event", {"title": "team visit", "day": "Friday"}))
    anew = section(("delete_event", {"title": "team visit"}),
                   ("add_event", {"title": "team visit", "day": "Friday", "time": "09:00"}))  # fmt: skip
    assert judge_completion(task, tools, once).passed
    assert judge_completion(task, tools, anew).passed
    assert not judge_completion(task, tools, section(("delete_event", {"title": "team visit"}))).passed


@settings(deadline=None, max_examples=100)
@given(st.integers(0, len(ALL) - 1), st.lists(st.sampled_from(BITS) | st.text(max_size=8), max_size=9))
def test_the_judge_never_crashes(index: int, parts: list[str]) -> None:
    verdict = judge_completion(ALL[index], TOOLS, "".join(parts))
    assert 0.0 <= verdict.score <= 1.0 and verdict.passed == (verdict.score == 1.0)


def test_tasks_are_pure_functions_of_their_number() -> None:
    maker = TaskMaker(TOOLS, MIX, 9)
    tasks = [maker.task("train", i) for i in range(40)]
    assert TaskMaker(TOOLS, MIX, 9).task("train", 33) == tasks[33]
    assert TaskMaker(TOOLS, MIX, 10).task("train", 33) != tasks[33]


def test_heldout_tasks_share_no_name_with_training_and_use_heldout_tools() -> None:
    maker = TaskMaker(TOOLS, MIX, 2)
    keys = {}
    for split in ("train", "heldout"):
        tasks = [maker.task(split, i) for i in range(200)]
        keys[split] = {key for task in tasks for table in task["initial_state"].values() for key in table}
        used = {TOOLS[name].split for task in tasks for name in task["tools"]}
        assert used == ({"train"} if split == "train" else {"train", "heldout"})
        for task in tasks:
            for call in task["gold_calls"]:
                for value in call["arguments"].values():
                    spec = next(
                        domains()[task["domain"]].fields[f] for n, f in
                        TOOLS[call["name"]].semantics["arguments"].items() if call["arguments"].get(n) == value
                    )  # fmt: skip
                    adjusted = TOOLS[call["name"]].semantics["kind"] == "adjust" and isinstance(value, int)
                    assert spec.enum or adjusted or split_of(value) == split
    assert not keys["train"] & keys["heldout"]


def test_the_mix_and_the_form_of_tasks() -> None:
    tasks = [TaskMaker(TOOLS, MIX, 4).task("train", i) for i in range(400)]
    shares = Counter(task["kind"] for task in tasks)
    assert all(abs(shares[kind] / 400 - share) < 0.07 for kind, share in MIX.items())
    for task in tasks:
        assert 1 <= len(task["tools"]) <= 4
        assert {check["check"] for check in task["rubric"]} <= set(CHECKS)
        assert (task["follow_up"] is not None) == (task["kind"] == "ask")
        assert bool(task["gold_calls"]) == (task["kind"] != "none")
        needed = {call["name"] for call in task["gold_calls"]}
        assert needed <= set(task["tools"])
        for call in task["first_turn"]["calls"]:  # values can be copied from what the user said
            for value in call["arguments"].values():
                assert re.search(re.escape(str(value)), task["instruction"], re.IGNORECASE), task


def test_ids_count_over_the_whole_dialogue() -> None:
    _, messages = play(BY_KIND["chain"][0])
    ids = [call["id"] for message in messages for call in message.get("tool_calls", [])]
    assert [int(i.rpartition(":")[2]) for i in ids] == [0, 1]
    assert [m["tool_call_id"] for m in messages if m["role"] == "tool"] == ids


def test_the_withheld_detail_is_given_when_asked() -> None:
    _, messages = play(BY_KIND["ask"][0])
    assert [m["role"] for m in messages][:5] == ["system", "user", "assistant", "user", "assistant"]
    assert messages[2]["content"].endswith("?") and messages[3]["content"] == BY_KIND["ask"][0]["follow_up"]


def test_some_heldout_tasks_have_a_persona_that_training_never_hears() -> None:
    maker = TaskMaker(TOOLS, MIX, 6)
    seen = {maker.task("train", i)["persona"] for i in range(200)}
    assert seen == set(personas()) and not seen & set(heldout_personas())
    heldout = [maker.task("heldout", i)["persona"] for i in range(200)]
    assert set(heldout) == seen | set(heldout_personas())
    assert sum(name in heldout_personas() for name in heldout) / 200 == pytest.approx(HELDOUT_PERSONA_SHARE, abs=0.08)
