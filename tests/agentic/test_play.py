"""Who plays: rejection sampling, and the LLM agent with a stub client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from workspace import ROOT

from k2core.agentic.dialogues.agents import LLMAgent
from k2core.agentic.dialogues.play import Player, figures
from k2core.agentic.domains.taxonomy import domains
from k2core.agentic.tasks.task import TaskMaker
from k2core.agentic.tools.evolve import plain_tools
from k2core.agentic.tools.specs import write_tools
from k2core.llm.config import LLMConfig
from k2core.machine import Compute
from k2core.recipe import read_recipe, validate
from k2core.sandbox.config import SandboxConfig
from k2core.stage import Job
from k2core.storage import read_lines, write_lines
from stages import trajectories

TOOLS = {tool.name: tool for domain in domains().values() for tool in plain_tools(domain)}
TASK = TaskMaker(TOOLS, {"single": 1}, 1).task("train", 0)


class StubLLM:
    """Gives prepared answers, and checks that each request's schema is one and admits its answer."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked = list(answers), []

    def complete(self, messages: list[dict[str, str]], *, schema: dict[str, Any] | None, **_: object) -> str:
        self.asked.append((messages, schema))
        answer = self.answers.pop(0)
        if schema is not None:
            Draft202012Validator.check_schema(schema)
            if answer.startswith("{") and answer.endswith("}"):
                Draft202012Validator(schema).validate(json.loads(answer))
        return answer


def test_rejection_sampling_stops_at_the_first_that_passes() -> None:
    player = Player(TOOLS, 1, 0.0)
    (good,) = player.oracle(TASK, 3, mistake_rate=0.0)
    assert good["verdict"]["passed"] and good["id"] == f"{TASK['id']}/oracle/0" and good["agent"] == "oracle"
    played = player.oracle(TASK, 3, mistake_rate=0.999999)
    assert [row["verdict"]["passed"] for row in played] == [False] * 3
    assert player.oracle(TASK, 3, 0.5) == player.oracle(TASK, 3, 0.5)
    found = figures([good], played)
    assert (found["accepted/oracle"], found["rejected/oracle"]) == (1.0, 3.0)
    assert sum(value for name, value in found.items() if name.startswith("failed_check/")) >= 3


def test_the_stage_writes_what_the_oracle_plays(tmp_path: Path) -> None:
    tools, tasks, programs = tmp_path / "tools", tmp_path / "tasks", tmp_path / "programs"
    for folder in (tools, tasks, programs):
        folder.mkdir()
    write_lines(programs / "repairs.jsonl", [])
    write_tools(tools / "tools.jsonl", TOOLS.values())
    (tools / "servers.json").write_text("{}")
    write_lines(tasks / "tasks.jsonl", [TaskMaker(TOOLS, {"single": 1}, 1).task("train", i) for i in range(5)])
    write_lines(tasks / "real_tasks.jsonl", [])
    recipe = read_recipe(ROOT / "recipes/laptop.yaml")
    params = trajectories.Params(**recipe["trajectories"] | {"llm_tasks": 0, "mistake_rate": 0.0, "failure_rate": 0.0})
    llm, compute = validate(LLMConfig, recipe["llm"], "llm"), validate(Compute, recipe["compute"], "compute")
    job, here = Job("trajectories", tmp_path / "scratch", None), SandboxConfig(kubernetes=None)
    figures = trajectories.run(params, llm, compute, here, tools, tasks, programs, tmp_path / "out", job)
    assert figures["accepted/oracle"] == figures["accepted"] == 5
    assert {row["agent"] for row in read_lines(tmp_path / "out" / "accepted.jsonl")} == {"oracle"}


def test_the_llm_agent_solves_a_task_and_survives_nonsense() -> None:
    player = Player(TOOLS, 1, 0.0)
    (call,) = TASK["gold_calls"]
    act = [json.dumps({"step": call["name"]}), json.dumps(call["arguments"])]
    good = player.llm(TASK, StubLLM(*act, TASK["gold_answer"]), 0.0, 50)
    assert good["verdict"]["passed"] and good["agent"] == "llm"
    for nonsense in ('["cut off', "[1]", "3", "", "[" * 100_000, '{"step": "speak"}'):
        assert not player.llm(TASK, StubLLM(nonsense, nonsense, nonsense), 0.0, 50)["verdict"]["passed"]
    torn = player.llm(TASK, StubLLM(act[0], '{"name": "cut'), 0.0, 50)
    assert not torn["verdict"]["passed"] and torn["messages"][-1]["content"] == '{"name": "cut'


def test_what_the_llm_agent_says_is_no_json_so_a_quote_does_not_end_it() -> None:
    """In JSON the small model's `The task "water car" is gone.` ended at its first quote."""
    said = 'The task "water car" is gone.'
    llm = StubLLM(json.dumps({"step": "speak"}), said)
    agent = LLMAgent(llm, [TOOLS["get_event"]], 0, 0.0, 10)
    user = {"role": "user", "content": 'Delete the task "water car"'}
    assert agent.reply([{"role": "system", "content": "s"}, user]) == {"role": "assistant", "content": said}
    (_, choice), (shown, speech) = llm.asked
    assert choice is not None and speech is None
    assert shown[-1]["content"] == "User: Delete the task water car"


def test_after_a_result_the_llm_agent_must_speak() -> None:
    asked = {}
    for result in ("{}", '{"error": "temporarily unavailable, try again"}'):
        llm = StubLLM(json.dumps({"step": "speak"}), "Done.")
        messages = [{"role": "system", "content": ""}, {"role": "tool", "content": result}]
        LLMAgent(llm, [TOOLS["get_event"]], 0, 0.0, 10).reply(messages)
        asked[result] = [schema is None for _, schema in llm.asked]
    assert list(asked.values()) == [[True], [False, True]]
