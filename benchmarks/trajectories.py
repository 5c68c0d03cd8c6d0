"""Judged dialogues per hour: by the oracle from nothing, by the embedded LLM; and what 100,000 take of a server.

Tools, tasks and rates are the laptop recipe's; names and values are made up, and no MCP server is started.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.harness import ROOT, Entry, commit, machine, measured
from benchmarks.pages import number, rewrite
from benchmarks.scale import LAPTOP, Scale
from k2core.agentic.dialogues.play import Player, Trajectory
from k2core.agentic.dialogues.proof import fault
from k2core.agentic.domains.taxonomy import domains
from k2core.agentic.tasks.richer import RicherMaker
from k2core.agentic.tasks.task import Task, TaskMaker
from k2core.agentic.tools.evolve import assign_splits, evolve, plain_tools, world_tools
from k2core.agentic.tools.specs import ToolSpec
from k2core.agentic.worlds.world import worlds
from k2core.llm.client import LLM, Request
from k2core.llm.config import LLMConfig
from k2core.machine.compute import Compute
from k2core.recipe import read_recipe, validate
from k2core.recipe.section import load_section
from k2core.synthesis.rephrasing.forecast import H100_SOURCE, forecast

TOPIC = "trajectories"
PAGE = ROOT / "docs" / "tasks.md"
SERVER = ROOT / "recipes" / "k2.yaml"
"""Its `llm` says which model a server has and how fast it is expected to write."""
WANTED = 100_000


@dataclass(frozen=True)
class Played:
    """Who played: the dialogues, and the seconds that they and all before them took."""

    who: str
    rows: list[Trajectory]
    seconds: float

    @property
    def kept(self) -> float:
        """The share that the judge passes."""
        return fmean(row["verdict"]["passed"] for row in self.rows)

    @property
    def per_hour(self) -> float:
        """Dialogues played per hour."""
        return 3600 * len(self.rows) / self.seconds

    @property
    def kept_per_hour(self) -> float:
        """Those of them that the judge passes."""
        return self.per_hour * self.kept


class Counted:
    """An LLM whose requests and written tokens are counted."""

    def __init__(self, llm: LLM) -> None:
        self.llm, self.requests, self.tokens = llm, 0, 0

    def complete(self, messages: list[dict[str, str]], **how: Any) -> str:
        """As `LLM.complete`."""
        answer = self.llm.answer(Request(messages, **how))
        self.requests, self.tokens = self.requests + 1, self.tokens + answer.completion_tokens
        return answer.text


def run(scale: Scale) -> list[Entry]:
    """Figures of the oracle and of the embedded LLM; at full scale docs/tasks.md gets them."""
    recipe = read_recipe(LAPTOP)
    begun = time.perf_counter()
    tools = offered(recipe["tools"]["tools_per_domain"])
    tasks = made(recipe["tasks"], tools, scale.tasks)
    player, how = Player(tools, 1, recipe["trajectories"]["failure_rate"]), recipe["trajectories"]
    rows = [row for task in tasks for row in player.oracle(task, how["attempts"], how["mistake_rate"])]
    oracle = Played("the oracle, one process", rows, time.perf_counter() - begun)
    llm, counted = by_llm(player, tasks[:: max(1, len(tasks) // scale.llm_tasks)][: scale.llm_tasks], how)
    if scale.name == "full":
        rewrite(PAGE, TOPIC, block(oracle, llm, counted))
    note = f"{len(tasks)} tasks of the laptop recipe's kinds, made, proved, played and judged"
    return [
        measured("trajectories kept, the oracle", [oracle.kept_per_hour], unit="per hour", topic=TOPIC, note=note),
        measured("trajectories played, the embedded LLM", [llm.per_hour], unit="per hour", topic=TOPIC,
                 note=f"{len(llm.rows)} tasks, {counted.tokens / len(llm.rows):.0f} tokens written in each"),
    ]  # fmt: skip


def offered(per_domain: int) -> dict[str, ToolSpec]:
    """The evolved tools and those of the worlds, by name."""
    families = [
        assign_splits(evolve(domain, per_domain, 1)[0], {tool.name for tool in plain_tools(domain)})
        for domain in domains().values()
    ]
    of_worlds = [world_tools(world) for world in worlds().values()]
    return {tool.name: tool for family in (*families, *of_worlds) for tool in family}


def made(section: dict[str, Any], tools: dict[str, ToolSpec], count: int) -> list[Task]:
    """At most `count` training tasks in the recipe's proportions: those whose proof holds."""
    plain = TaskMaker(tools, section["mix"], 1)
    richer = RicherMaker(tools, section["richer"]["mix"], section["richer"]["calls"], 1)
    few = round(count * section["richer"]["train"] / (section["train"] + section["richer"]["train"]))
    tasks = [plain.task("train", i) for i in range(count - few)] + [richer.task("train", i) for i in range(few)]
    return [task for task in tasks if not fault(task, tools)]


def by_llm(player: Player, tasks: list[Task], how: dict[str, Any]) -> tuple[Played, Counted]:
    """The embedded LLM of the laptop recipe with an empty cache; its start does not count."""
    config, compute = load_section(LLMConfig, LAPTOP, "llm"), load_section(Compute, LAPTOP, "compute")
    with tempfile.TemporaryDirectory() as folder, LLM.open(config, compute, Path(folder) / "answers.sqlite") as client:
        client.complete([{"role": "user", "content": "Hello."}], max_tokens=1, temperature=0.0, seed=0)
        counted: Any = Counted(client)
        begun = time.perf_counter()
        rows = [player.llm(task, counted, how["llm_temperature"], how["llm_max_tokens"]) for task in tasks]
        return Played(f"{config.model}, embedded", rows, time.perf_counter() - begun), counted


def block(oracle: Played, llm: Played, counted: Counted) -> str:
    """The block `trajectories` of docs/tasks.md."""
    server = validate(LLMConfig, read_recipe(SERVER)["llm"], "llm")
    each, asked = counted.tokens / len(llm.rows), counted.requests / len(llm.rows)
    cost = forecast(round(WANTED * asked), 0, round(WANTED * each), server)
    gpu = "" if cost.h100_days is None else (
        f", or {24 * cost.h100_days:.2f} H100-hours at the published {cost.h100_tokens_per_second:,} tokens per second "
        f"of one GPU ({H100_SOURCE})"
    )  # fmt: skip
    lines = ["| who plays | played | kept | played per hour | kept per hour |", "|---|---|---|---|---|"]
    lines += [
        f"| {by.who} | {len(by.rows):,} | {by.kept:.0%} | {number(by.per_hour)} | {number(by.kept_per_hour)} |"
        for by in (oracle, llm)
    ]
    return "\n".join([
        *lines, "",
        f"The LLM wrote {each:.0f} tokens a dialogue in {asked:.1f} requests. With as many, {WANTED:,} dialogues take "
        f"{WANTED * each / 1e6:.1f} million tokens: {60 * cost.hours:.0f} minutes at the "
        f"{server.expected_tokens_per_second:,.0f} tokens per second that `recipes/k2.yaml` expects of a vLLM server "
        f"with {server.model}{gpu}. The prompts, which the server reads, are not in this. That model's kept "
        "share says how many dialogues must be played for one.",
        "", f"Measured on {machine()}, commit {commit()}: `python -m benchmarks {TOPIC}`.",
    ])  # fmt: skip
