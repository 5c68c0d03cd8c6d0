"""Held-out tasks played whole: the model with its user and the stateful simulator, judged by the task's rubric.

| name | what | interval |
|---|---|---|
| `dialogues/greedy[/GROUP]` | share of the tasks whose greedy dialogue the judge passes | Wilson |
| `dialogues/first_reply[/GROUP]` | share whose first reply, greedy, is right | Wilson |
| `dialogues/answer[/GROUP]` | given the right calls and their results, share that answers rightly, greedy | Wilson |
| `dialogues/pass_hat_K[/GROUP]` | K dialogues at temperature 1 all pass (tau-bench's pass^K) | bootstrap over tasks |

An answer is right if it is brief and says what the rubric wants said: the value that a tool returned, what was done, or
that the policy forbids it. It is measured on tasks that need calls.

Groups are the kinds of tasks (`k2core/agentic/tasks/plans.py`), and what no training task has: `unseen_tools`,
`unseen_personas`, `unseen_domains`, where there are such tasks; `unseen_values` are the tasks with nothing else unseen.
Names and values of held-out tasks are always unseen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from k2core.agentic.dialogues.dialogue import converse
from k2core.agentic.dialogues.model_agent import ModelAgent
from k2core.agentic.dialogues.oracle import OracleAgent
from k2core.agentic.dialogues.play import Player, Trajectory
from k2core.agentic.tasks.judge import Evidence, judge, judge_completion
from k2core.agentic.tasks.plans import KINDS
from k2core.agentic.tasks.task import Task
from k2core.agentic.tools.simulator import Simulator
from k2core.chat.template import reply_text
from k2core.evals.passk import pass_hat_k
from k2core.evals.subject import Measured, Subject
from k2core.figures.intervals import Score, mean, share
from k2core.gym.tool_call import ToolCall

if TYPE_CHECKING:
    from k2core.inference.enforcer import Enforcer

ENVIRONMENT = "tool_call"
FAILURE_RATE = 0.0
"""The tools': every model meets the same world."""


@dataclass(frozen=True)
class Played:
    """What became of one task.

    Attributes:
        first_reply, answer: whether they were right; `answer` is None for a task that needs no call.
        sampled: whether each sampled dialogue passed.
    """

    task: Task
    greedy: Trajectory
    first_reply: bool
    answer: bool | None
    sampled: list[bool]


def measure(subject: Subject) -> Measured:
    """Play the first `dialogues` held-out tasks of the five kinds."""
    played, scored = play_and_score(subject, "dialogues")
    kinds = sorted({one.task["kind"] for one in played})
    passed = {kind: [sum(p.sampled) / len(p.sampled) for p in played if p.task["kind"] == kind] for kind in kinds}
    return Measured(scored, {"dialogues/pass_hat_1": passed}, readable(played, subject.settings.readable))


def play_and_score(
    subject: Subject, name: str, enforcer: Enforcer | None = None, kinds: Collection[str] = KINDS
) -> tuple[list[Played], dict[str, Score]]:
    """What becomes of the first `dialogues` held-out tasks of `kinds`, and its scores as `name/...`."""
    environment: Any = subject.environments[ENVIRONMENT]
    settings, seed = subject.settings, subject.seed

    def agent(temperature: float) -> ModelAgent:
        return ModelAgent(
            subject.model, subject.tokenizer, environment.max_new_tokens, temperature, seed, enforcer=enforcer
        )

    played = play(environment, settings.dialogues, agent, settings.samples, seed, kinds)
    return played, scores(played, groups(environment.tasks["train"]), seed, name)


def play(
    environment: ToolCall, count: int, agent: Callable[[float], ModelAgent], samples: int, seed: int,
    kinds: Collection[str] = KINDS,
) -> list[Played]:  # fmt: skip
    """What becomes of the first `count` held-out tasks of `kinds`; `agent` makes an agent for a temperature."""
    tasks = [task for task in environment.tasks["heldout"] if task["kind"] in kinds][:count]
    player = Player(environment.tools, seed, FAILURE_RATE)
    greedy = [row for (row,) in player.model(tasks, agent(0.0), 1)]
    sampled = player.model(tasks, agent(1.0), samples)
    answers = answers_after_results(environment, tasks, agent(0.0))
    return [
        Played(
            task, row, _first_reply(environment, task, row), answers.get(task["id"]),
            [one["verdict"]["passed"] for one in rows],
        )
        for task, row, rows in zip(tasks, greedy, sampled, strict=True)
    ]  # fmt: skip


def answers_after_results(environment: ToolCall, tasks: Sequence[Task], agent: ModelAgent) -> dict[str, bool]:
    """Task → whether the model's answer is right where a perfect agent has made all calls that the task needs."""
    due, worlds = [task for task in tasks if task["gold_calls"]], []
    asked = []
    for task in due:
        tools = {name: environment.tools[name] for name in task["tools"]}
        worlds.append(Simulator(tools, task["initial_state"]))
        messages = converse(task, OracleAgent(task["goal"], tools, Random(task["id"])), worlds[-1])
        asked.append((f"{task['id']}/answer", messages[:-1], [tool.wire() for tool in tools.values()]))
    answers = {}
    for task, world, (_, before, _), reply in zip(due, worlds, asked, agent.replies(asked), strict=True):
        checks = judge(task, Evidence.of([*before, reply], world)).checks
        answers[task["id"]] = all(checks.get(name, True) for name in ("mentions", "declines", "brief", "format"))
    return answers


def groups(training: Sequence[Task]) -> Callable[[Task], list[str]]:
    """The groups that a held-out task belongs to, given all training tasks; the empty one holds every task."""
    tools = {name for task in training for name in task["tools"]}
    personas, domains = {task["persona"] for task in training}, {task["domain"] for task in training}

    def of(task: Task) -> list[str]:
        unseen = {
            "unseen_tools": any(call["name"] not in tools for call in task["gold_calls"]),
            "unseen_personas": task["persona"] not in personas,
            "unseen_domains": task["domain"] not in domains,
        }
        return ["", task["kind"], *([name for name, holds in unseen.items() if holds] or ["unseen_values"])]

    return of


def scores(
    played: Sequence[Played], groups_of: Callable[[Task], list[str]], seed: int, name: str = "dialogues"
) -> dict[str, Score]:
    """Every measure of every group that has tasks, as `name/...`."""
    samples = len(played[0].sampled)
    names = sorted({group for one in played for group in groups_of(one.task)})
    found: dict[str, Score] = {}
    for group in names:
        of = [one for one in played if group in groups_of(one.task)]
        tail = f"/{group}" if group else ""
        answers = [one.answer for one in of if one.answer is not None]
        found[f"{name}/greedy{tail}"] = share(sum(one.greedy["verdict"]["passed"] for one in of), len(of))
        found[f"{name}/first_reply{tail}"] = share(sum(one.first_reply for one in of), len(of))
        if answers:
            found[f"{name}/answer{tail}"] = share(sum(answers), len(answers))
        for k in range(1, samples + 1):
            values = [pass_hat_k(samples, sum(one.sampled), k) for one in of]
            found[f"{name}/pass_hat_{k}{tail}"] = mean([values], seed)
    return found


def readable(played: Sequence[Played], count: int) -> list[dict[str, Any]]:
    """`count` greedy dialogues for a person to read, each kind in turn."""
    seen: Counter[str] = Counter()
    ranked = []
    for number, one in enumerate(played):
        ranked.append((seen[one.task["kind"]], number))
        seen[one.task["kind"]] += 1
    return [
        {
            "environment": "dialogues", "prompt": one.task["instruction"], "task": one.task["id"],
            "kind": one.task["kind"], "messages": one.greedy["messages"], "verdict": one.greedy["verdict"],
            "score": float(one.greedy["verdict"]["passed"]),
        }
        for one in [played[number] for _, number in sorted(ranked)[:count]]
    ]  # fmt: skip


def _first_reply(environment: ToolCall, task: Task, row: Trajectory) -> bool:
    first = next(message for message in row["messages"] if message["role"] == "assistant")
    return not first.get("errors") and judge_completion(task, environment.tools, reply_text(first)).passed
