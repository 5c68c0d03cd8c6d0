"""Runs in an interpreter that has `verifiers` (0.4 or newer): lists a taskset's tasks, and scores replies to them.

It imports nothing of this project. Standard input and output carry a JSON object a line: the first line in says which
taskset, the first out lists its tasks; each later line in is a reply, and the line out its reward. What the taskset
prints goes to standard error.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import sys
from itertools import islice
from typing import Any


def unfit(taskset: Any, environment: type, single: type, base: Any) -> str:
    """Why a taskset is more than one reply scored by code; empty if it is not."""
    kind = type(taskset).task_type()
    if environment is not single:
        return f"its environment {environment.__name__} plays several turns or agents"
    if type(taskset).toolsets(taskset.config) or kind.toolsets(taskset.config.task):
        return "it has tools"
    if kind.NEEDS_CONTAINER or kind.setup is not base.setup:
        return "it needs a container"
    rewards = kind.hooks(kind(kind.data_type().model_construct(), taskset.config.task), "reward")
    if needy := [each.__name__ for each in rewards if "runtime" in inspect.signature(each).parameters]:
        return f"its reward {needy[0]} runs in a container"
    return "" if rewards else "it has no reward"


def listed(task: Any) -> dict[str, Any]:
    """A task as the adapter reads it."""
    prompt = task.data.prompt
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [
        {"role": each.role, "content": each.content} for each in prompt or []
    ]  # fmt: skip
    system = [{"role": "system", "content": task.data.system_prompt}] if task.data.system_prompt else []
    return {"messages": system + messages, "data": task.data.model_dump(mode="json")}


async def score(task: Any, messages: list[dict[str, str]], reply: str) -> float:
    """The sum of a task's rewards for a reply to its messages."""
    from verifiers.v1.configs.agent import AgentConfig
    from verifiers.v1.graph import MessageNode
    from verifiers.v1.state import state_cls
    from verifiers.v1.trace import AgentInfo, Trace, TraceTask
    from verifiers.v1.types import AssistantMessage, SystemMessage, UserMessage

    kinds = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}
    said = [*messages, {"role": "assistant", "content": reply}]
    nodes = [
        MessageNode(
            parent=number - 1 if number else None, message=kinds[each["role"]](content=each["content"]),
            sampled=number == len(messages),
        )
        for number, each in enumerate(said)
    ]  # fmt: skip
    trace = Trace(
        task=TraceTask(type=type(task).__name__, data=task.data), agent=AgentInfo(config=AgentConfig()), nodes=nodes,
        state=state_cls(type(task))(),
    )  # fmt: skip
    await task.score(trace)
    return float(trace.reward)


def answers(line: str) -> Any:
    """The tasks of a taskset, then a reward for each reply that is sent in."""
    from verifiers.v1.configs.taskset import TasksetConfig
    from verifiers.v1.envs.single_agent import SingleAgentEnv
    from verifiers.v1.task import Task
    from verifiers.v1.utils.generic import concrete_type
    from verifiers.v1.utils.loaders import environment_class, taskset_class

    wanted = json.loads(line)
    kind = taskset_class(wanted["id"])
    config = concrete_type(kind, TasksetConfig) or TasksetConfig
    taskset = kind(config.model_validate({"id": wanted["id"], **wanted["config"]}))
    if reason := unfit(taskset, environment_class(wanted["id"]), SingleAgentEnv, Task):
        raise ValueError(f"{wanted['id']}: {reason}, and only single replies scored by code are taken")
    tasks = list(islice(taskset, wanted["tasks"]))
    shown = [listed(task) for task in tasks]
    if bad := next((each for each in shown if not all(isinstance(m["content"], str) for m in each["messages"])), None):
        raise ValueError(f"{wanted['id']}: a prompt has more than text ({str(bad['messages'])[:80]})")
    yield {"tasks": shown}
    for request in map(json.loads, sys.stdin):
        task, messages = tasks[request["task"]], shown[request["task"]]["messages"]
        try:
            yield {"reward": asyncio.run(score(task, messages, request["reply"]))}
        except Exception as error:  # noqa: BLE001 (others' code, on what a model wrote)
            yield {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Answer standard input."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        for each in answers(sys.stdin.readline()):
            print(json.dumps(each), file=out, flush=True)
    except Exception as error:  # noqa: BLE001 (said in one sentence by whoever reads it)
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=out, flush=True)


if __name__ == "__main__":
    main()
