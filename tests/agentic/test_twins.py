"""When no call is due: nothing but the declared tools and the values said tells such a task from one that is due."""

from __future__ import annotations

import re
from collections import Counter
from random import Random

from k2core.agentic.dialogues.dialogue import converse
from k2core.agentic.dialogues.oracle import OracleAgent, words
from k2core.agentic.dialogues.proof import fault
from k2core.agentic.domains.taxonomy import domains
from k2core.agentic.tasks.judge import judge_completion
from k2core.agentic.tasks.plans import could_serve
from k2core.agentic.tasks.task import Task, TaskMaker, gold_reply
from k2core.agentic.tools.evolve import assign_splits, evolve, plain_tools
from k2core.agentic.tools.simulator import Simulator
from k2core.chat.template import reply_text
from k2core.gym.demonstrations import is_heldout

TOOLS = {
    tool.name: tool
    for domain in domains().values()
    for tool in assign_splits(evolve(domain, 14, 1)[0], {plain.name for plain in plain_tools(domain)})
}
MAKER = TaskMaker(TOOLS, {"single": 0.6, "parallel": 0.12, "chain": 0.08, "ask": 0.1, "none": 0.1}, 3)
NUMBERS = range(500)
PAIRS = [(MAKER.task("train", i), twin) for i in NUMBERS if (twin := MAKER.twin(i, 1.0))]


def first_words(kind: str) -> set[str]:
    return {sentence.split()[0] for sentence in words()[kind]}


def test_every_single_task_and_no_other_has_a_twin_and_a_share_of_them_if_asked() -> None:
    singles = [task for task in (MAKER.task("train", i) for i in NUMBERS) if task["kind"] == "single"]
    assert [task["id"] for task, _ in PAIRS] == [task["id"] for task in singles]
    assert not any(MAKER.twin(i, 0.0) for i in NUMBERS)
    half = [twin for i in NUMBERS if (twin := MAKER.twin(i, 0.5))]
    assert 0.4 < len(half) / len(PAIRS) < 0.6 and all(twin in [each for _, each in PAIRS] for twin in half)


def test_a_twin_to_be_refused_differs_in_one_tool_which_cannot_do_it() -> None:
    refused = [(task, twin) for task, twin in PAIRS if twin["kind"] == "none"]
    assert len(refused) > len(PAIRS) / 2
    for task, twin in refused:
        for same in ("system", "persona", "instruction", "initial_state", "domain"):
            assert twin[same] == task[same]
        fitting = task["gold_calls"][0]["name"]
        assert [a for a, b in zip(task["tools"], twin["tools"], strict=True) if a != b] == [fitting]
        assert not any(could_serve(TOOLS[name], TOOLS[fitting]) for name in twin["tools"])
        assert len({*twin["tools"]}) == len(twin["tools"])


def test_a_twin_that_asks_differs_in_a_value_that_is_left_out() -> None:
    asking = [(task, twin) for task, twin in PAIRS if twin["kind"] == "ask"]
    assert len(asking) > 10
    for task, twin in asking:
        assert (twin["tools"], twin["persona"], twin["gold_calls"]) == (
            task["tools"], task["persona"], task["gold_calls"],
        )  # fmt: skip
        said, left = (set(re.findall(r"[\w:-]+", each["instruction"])) for each in (task, twin))
        assert left < said and twin["follow_up"]


def test_twins_are_proved_and_what_is_right_for_one_is_wrong_for_the_other() -> None:
    for task, twin in PAIRS:
        assert not fault(twin, TOOLS)
        for one, other in ((task, twin), (twin, task)):
            assert judge_completion(one, TOOLS, reply_text(gold_reply(one))).passed
            assert not judge_completion(one, TOOLS, reply_text(gold_reply(other))).passed


def test_the_number_of_tools_does_not_tell_whether_one_fits() -> None:
    counts = {
        kind: Counter(len(TaskMaker(TOOLS, {kind: 1}, 4).task("train", i)["tools"]) for i in range(400))
        for kind in ("single", "none")
    }
    assert all(abs(counts["single"][n] - counts["none"][n]) < 45 for n in (1, 2, 3)), counts


def test_the_verb_does_not_tell_whether_the_value_is_missing() -> None:
    wishes = [task["instruction"].lower() for task, _ in PAIRS]
    assert min(sum(f"{verb} the" in wish for wish in wishes) for verb in ("set", "change")) > 20


def test_questions_begin_alike_and_refusals_begin_alike() -> None:
    assert len(first_words("question")) == len(first_words("refusal")) == 1

    def said(task: Task) -> str:
        declared = {name: TOOLS[name] for name in task["tools"]}
        world = Simulator(declared, task["initial_state"])
        return str(converse(task, OracleAgent(task["goal"], declared, Random(task["id"])), world)[2]["content"])

    refused = Counter(said(twin) for _, twin in PAIRS if twin["kind"] == "none")
    assert len(refused) == len(words()["refusal"]) and max(refused.values()) < refused.total() / 2


def test_a_twin_is_on_the_side_of_its_task() -> None:
    sides = [(is_heldout({"task_id": task["id"]}), is_heldout({"task_id": twin["id"]})) for task, twin in PAIRS]
    assert all(one == other for one, other in sides) and {one for one, _ in sides} == {True, False}
