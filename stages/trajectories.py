"""Dialogues of persona, agent and stateful tool simulator, judged against the rubric (K2 §3.1).

Only training tasks are played. A task is tried again until a dialogue passes (rejection sampling) or the attempts
are spent; what the judge rejected is kept. A few dialogues come from a real LLM, some tasks are played on real MCP
servers, and repository tasks in the sandbox. An LLM judges a sample beside the rules.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from k2core.llm.config import LLMConfig, own_llm
from k2core.machine import Compute
from k2core.recipe import Section
from k2core.sandbox.config import SandboxConfig
from k2core.stage import Job, Metrics, StageError, main

SECTION = "trajectories"
TRACED = 5
"""Accepted and rejected dialogues that MLflow shows, as many of each."""


class Params(Section):
    """How the dialogues are played."""

    attempts: int = Field(ge=1, description="most dialogues per task, until one passes")
    failure_rate: float = Field(ge=0, lt=1, description="share of calls that find the tool unavailable at that moment")
    mistake_rate: float = Field(ge=0, le=1, description="share of the oracle's dialogues with a deliberate mistake")
    llm_tasks: int = Field(ge=0, description="tasks that the LLM agent plays too; 0 asks no LLM")
    llm_judged: int = Field(ge=0, description="dialogues that the LLM judges too, half of them rejected by the rules")
    llm_max_tokens: int = Field(ge=16, description="tokens of one reply of the LLM agent, at most")
    llm_temperature: float = Field(ge=0, le=2, description="sampling temperature of the LLM agent")
    llm: dict[str, Any] = own_llm()


def run(
    params: Params, llm: LLMConfig, compute: Compute, sandbox: SandboxConfig, tools: Path, tasks: Path, programs: Path,
    out: Path, job: Job,
) -> Metrics:  # fmt: skip
    """Write `accepted.jsonl` and `rejected.jsonl`."""
    sandbox.apply()
    llm = llm.with_own(params.llm, "trajectories.llm")
    from k2core.agentic.dialogues.llm_judge import judged, sample
    from k2core.agentic.dialogues.play import Player, figures
    from k2core.agentic.tools.mcp import read_servers
    from k2core.agentic.tools.specs import read_tools
    from k2core.llm.client import LLM
    from k2core.storage import read_lines, write_lines
    from k2core.swe.bench import repaired

    specs = read_tools(tools / "tools.jsonl")
    training = [task for task in read_lines(tasks / "tasks.jsonl") if task["split"] == "train"]
    player = Player(specs, compute.seed, params.failure_rate)
    job.say(f"{len(training)} tasks, at most {params.attempts} dialogues each; about {len(training) / 400:.0f} s")
    played = []
    with job.progress(len(training), "task", what="oracle") as bar:
        for task in training:
            played += player.oracle(task, params.attempts, params.mistake_rate)
            bar.update()
    real = read_lines(tasks / "real_tasks.jsonl")
    servers = read_servers(tools / "servers.json")
    job.say(f"{len(real)} tasks on real MCP servers, about {len(real) / 20:.0f} s")
    played += player.real(real, servers, job.scratch / "real")
    if params.llm_tasks:
        step = max(1, len(training) // params.llm_tasks)
        chosen = training[::step][: params.llm_tasks]
        job.say(f"{len(chosen)} tasks by {llm.model}, about {80 * len(chosen) / llm.expected_tokens_per_second:.0f} s")
        with LLM.open(llm, compute, job.answers) as client:
            for task in chosen:
                played.append(player.llm(task, client, params.llm_temperature, params.llm_max_tokens))
    found: dict[str, float] = {}
    if params.llm_judged:
        rows = sample(played, params.llm_judged)
        job.say(f"{len(rows)} dialogues judged by {llm.model}")
        with LLM.open(llm, compute, job.answers) as client:
            found = judged(client, rows, {task["id"]: task for task in [*training, *real]}, compute.seed)
    repairs = [task for task in read_lines(programs / "repairs.jsonl") if task["split"] == "train"]
    if repairs:
        job.say(f"{len(repairs)} repository tasks in the sandbox, about {2 * len(repairs)} s")
        played += map(repaired, repairs)
    accepted = [row for row in played if row["verdict"]["passed"]]
    rejected = [row for row in played if not row["verdict"]["passed"]]
    if not accepted:
        raise StageError("the judge accepted no dialogue; set trajectories.mistake_rate to 0 and look at its checks")
    out.mkdir()
    write_lines(out / "accepted.jsonl", accepted)
    write_lines(out / "rejected.jsonl", rejected)
    for kind, rows in (("accepted", accepted), ("rejected", rejected)):
        for row in rows[:: -(-len(rows) // TRACED) or 1]:
            about = {"id": row["id"], "agent": row["agent"], "kind": row["kind"], "score": row["verdict"]["score"]}
            job.trace(f"trajectory, {kind}", row["messages"], about)
    return figures(accepted, rejected) | found


if __name__ == "__main__":
    main(run, SECTION)
