"""Dialogues played and judged: who plays, in which world, and what is written down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from random import Random
from statistics import fmean
from typing import TYPE_CHECKING, Any

from k2core.agentic.dialogues.agents import LLMAgent
from k2core.agentic.dialogues.dialogue import Agent, Message, converse, together, turns
from k2core.agentic.dialogues.oracle import MISTAKES, OracleAgent
from k2core.agentic.tasks.judge import Evidence, judge
from k2core.agentic.tasks.task import Task
from k2core.agentic.tools.simulator import Simulator
from k2core.agentic.tools.specs import ToolSpec
from k2core.stage import StageError
from k2core.storage.atomic import remove

if TYPE_CHECKING:
    from k2core.agentic.dialogues.model_agent import ModelAgent
    from k2core.agentic.tasks.real_domain import RealWorld
    from k2core.agentic.tools.mcp import ServerSpec
    from k2core.llm.client import LLM

Trajectory = dict[str, Any]


@dataclass(frozen=True)
class Player:
    """Plays tasks over `tools`; a dialogue depends on (seed, task, agent, attempt) alone."""

    tools: Mapping[str, ToolSpec]
    seed: int
    failure_rate: float

    def oracle(self, task: Task, attempts: int, mistake_rate: float) -> list[Trajectory]:
        """The oracle's dialogues until one passes, at most `attempts`."""
        played: list[Trajectory] = []
        while len(played) < attempts and not (played and played[-1]["verdict"]["passed"]):
            name = f"{task['id']}/oracle/{len(played)}"
            random = Random(f"{self.seed}/{name}")
            mistake = random.choice(MISTAKES) if random.random() < mistake_rate else None
            agent = OracleAgent(task["goal"], self._declared(task), random, mistake)
            played.append(self._play(name, task, agent, self._simulator(task, name)))
        return played

    def llm(self, task: Task, llm: LLM, temperature: float, max_tokens: int) -> Trajectory:
        """One dialogue of the LLM agent."""
        name = f"{task['id']}/llm/0"
        agent = LLMAgent(llm, [self.tools[tool] for tool in task["tools"]], self.seed, temperature, max_tokens)
        return self._play(name, task, agent, self._simulator(task, name))

    def model(self, tasks: Sequence[Task], agent: ModelAgent, samples: int) -> list[list[Trajectory]]:
        """`samples` dialogues of a model with each task, all of them in lock-step."""
        rows = [(f"{task['id']}/model/{sample}", task) for task in tasks for sample in range(samples)]
        worlds = [self._simulator(task, name) for name, task in rows]
        declared = {task["id"]: [tool.wire() for tool in self._declared(task).values()] for task in tasks}

        def answer(asked: Mapping[int, list[Message]]) -> list[Message]:
            return agent.replies(
                [(rows[number][0], messages, declared[rows[number][1]["id"]]) for number, messages in asked.items()]
            )

        dialogues = [turns(task, world) for (_, task), world in zip(rows, worlds, strict=True)]
        played = [
            self._judged(name, task, messages, world)
            for (name, task), world, messages in zip(rows, worlds, together(dialogues, answer), strict=True)
        ]
        return [played[start : start + samples] for start in range(0, len(played), samples)]

    def real(self, tasks: Sequence[Task], servers: Mapping[str, ServerSpec], folder: Path) -> list[Trajectory]:
        """The oracle's dialogues with real servers, each in a folder of its own below `folder`, which is emptied first.

        A server that leaves a call without an answer, or a world that cannot be read, costs that dialogue; the next
        task gets a new server in a new folder.

        Raises:
            StageError: a world cannot be set up even there.
        """
        from k2core.agentic.tasks.real_domain import RealWorld, WorldFault, real_domains
        from k2core.agentic.tools.mcp import serve

        played = []
        for name, domain in real_domains().items():
            todo = [task for task in tasks if task["domain"] == name]
            remove(folder / name)
            for started in count():
                if not todo:
                    break
                place, new = folder / name / str(started), True
                place.mkdir(parents=True)
                domain.make(place, {})
                with serve(name, servers[name], place, domain.environment) as server:
                    while todo and not server.broken:
                        task = todo[0]
                        try:
                            world = RealWorld(domain, server, place, self._declared(task), task["initial_state"])
                        except WorldFault as fault:
                            if new:
                                raise StageError(f"{task['id']}: its world cannot be set up ({fault})") from fault
                            break  # what the last task left is in the way
                        todo, new = todo[1:], False
                        agent = OracleAgent(task["goal"], self._declared(task), Random(task["id"]))
                        played.append(self._play(f"{task['id']}/oracle/0", task, agent, world))
        return played

    def _declared(self, task: Task) -> dict[str, ToolSpec]:
        return {name: self.tools[name] for name in task["tools"]}

    def _simulator(self, task: Task, name: str) -> Simulator:
        return Simulator(self._declared(task), task["initial_state"], f"{self.seed}/{name}", self.failure_rate)

    def _play(self, name: str, task: Task, agent: Agent, world: Simulator | RealWorld) -> Trajectory:
        return self._judged(name, task, converse(task, agent, world), world)

    def _judged(self, name: str, task: Task, messages: list[Message], world: Simulator | RealWorld) -> Trajectory:
        verdict = judge(task, Evidence.of(messages, world))
        return {
            "id": name, "task_id": task["id"], "kind": task["kind"], "agent": name.split("/")[1],
            "tools": [tool.wire() for tool in self._declared(task).values()], "messages": messages,
            "verdict": asdict(verdict),
        }  # fmt: skip


def figures(accepted: Sequence[Trajectory], rejected: Sequence[Trajectory]) -> dict[str, float]:
    """Accepted and rejected dialogues by agent and kind, rejected ones by failed check, and mean lengths."""
    found = {"accepted": float(len(accepted)), "rejected": float(len(rejected))}
    for name, rows in (("accepted", accepted), ("rejected", rejected)):
        for key in ("agent", "kind"):
            found |= {f"{name}/{value}": float(n) for value, n in sorted(Counter(row[key] for row in rows).items())}
    failed = Counter(check for row in rejected for check, passed in row["verdict"]["checks"].items() if not passed)
    found |= {f"failed_check/{check}": float(n) for check, n in sorted(failed.items())}
    llm = [row["verdict"]["passed"] for row in (*accepted, *rejected) if row["agent"] == "llm"]
    if llm:
        found["llm_acceptance"] = fmean(llm)
    return found | {
        "mean_replies": fmean(sum(m["role"] == "assistant" for m in row["messages"]) for row in accepted),
        "mean_calls": fmean(sum(m["role"] == "tool" for m in row["messages"]) for row in accepted),
    }
