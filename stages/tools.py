"""Tool specifications, evolved from a taxonomy and taken from real MCP servers (K2 §3.1).

A sample of the evolved tools has its description worded by the LLM. A fifth of the evolved tools is held out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from k2core.llm.config import LLMConfig, own_llm
from k2core.machine import Compute
from k2core.recipe import Section
from k2core.stage import Job, Metrics, StageError, main

SECTION = "tools"


class Params(Section):
    """How many tools, from where."""

    tools_per_domain: int = Field(ge=1, description="tools of each domain, the plain ones included")
    servers: list[str] = Field(description="MCP servers whose tools are taken: time, git; programs that are started")
    llm_descriptions: int = Field(ge=0, description="evolved tools whose description the LLM words; 0 asks no LLM")
    llm_max_tokens: int = Field(ge=16, description="tokens of such a description, at most")
    llm_temperature: float = Field(ge=0, le=2, description="sampling temperature of the descriptions")
    llm: dict[str, Any] = own_llm()


def run(params: Params, llm: LLMConfig, compute: Compute, out: Path, job: Job) -> Metrics:
    """Write `tools.jsonl`."""
    llm = llm.with_own(params.llm, "tools.llm")
    from collections import Counter

    from k2core.agentic.domains.taxonomy import domains
    from k2core.agentic.tools.descriptions import reword
    from k2core.agentic.tools.evolve import assign_splits, evolve, plain_tools
    from k2core.agentic.tools.mcp import SERVERS, serve
    from k2core.agentic.tools.specs import write_tools
    from k2core.llm.client import LLM

    unknown = sorted(set(params.servers) - set(SERVERS))
    if unknown:
        raise StageError(f"tools.servers: no MCP server {', '.join(unknown)}; there are {', '.join(SERVERS)}")
    seed = compute.seed
    job.say(f"{params.tools_per_domain} tools in each of {len(domains())} domains, then {', '.join(params.servers)}")
    families, refused, plain = [], Counter(), set()
    for domain in domains().values():
        family, reasons = evolve(domain, params.tools_per_domain, seed)
        families.append(family)
        refused += reasons
        plain |= {tool.name for tool in plain_tools(domain)}
    # The last of each family are the most evolved; one of each in turn.
    rounds = max(len(family) for family in families)
    order = [family[-1 - i] for i in range(rounds) for family in families if i < len(family)]
    chosen = [tool for tool in order if tool.name not in plain][: params.llm_descriptions]
    reworded, accepted = {}, 0
    if chosen:
        seconds = 20 * len(chosen) / llm.expected_tokens_per_second
        job.say(f"{len(chosen)} descriptions by {llm.model}, about {seconds:.0f} s")
        with LLM.open(llm, compute, job.answers) as client:
            texts, accepted = reword(
                client, chosen, max_tokens=params.llm_max_tokens, temperature=params.llm_temperature, seed=seed
            )
        reworded = {tool.name: tool for tool in texts}
    evolved = assign_splits([reworded.get(tool.name, tool) for family in families for tool in family], plain)
    figures = {
        "evolved": float(len(evolved)), "evolved_heldout": float(sum(t.split == "heldout" for t in evolved)),
        "categories": float(len({tool.category for tool in evolved})), "domains": float(len(families)),
        "refused": float(sum(refused.values())), "llm_descriptions": float(len(chosen)),
        "llm_descriptions_accepted": float(accepted),
    }  # fmt: skip
    figures |= {f"refused/{reason.replace(' ', '_')}": float(count) for reason, count in sorted(refused.items())}
    tools = evolved
    for name in params.servers:
        with serve(name, job.scratch) as server:
            listed = server.tools()
        figures[f"mcp/{name}"] = float(len(listed))
        tools = tools + listed
    twice = [name for name, count in Counter(tool.name for tool in tools).items() if count > 1]
    if twice:
        raise StageError(f"two tools are called {', '.join(twice)}; rename the entity of a domain")
    out.mkdir()
    return {"tools": float(write_tools(out / "tools.jsonl", tools))} | figures


if __name__ == "__main__":
    main(run, SECTION)
