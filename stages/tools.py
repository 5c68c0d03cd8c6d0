"""Tool specifications, evolved from a taxonomy and taken from real MCP servers (K2 §3.1).

A catalogue of domains gives as many more as the recipe asks for; an LLM may add categories and domains to it. A folder
of declarations, such as a registry's dump, adds tools that are only declared. A sample of the evolved tools has its
description worded by the LLM. A fifth of the evolved tools is held out.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from k2core.agentic.tools.mcp import ServerSpec
from k2core.llm.config import LLMConfig, own_llm
from k2core.machine import Compute
from k2core.recipe import Section
from k2core.stage import Job, Metrics, StageError, main

if TYPE_CHECKING:
    from k2core.agentic.tools.specs import ToolSpec

SECTION = "tools"
DOMAIN_TOKENS = 1200
"""Tokens of an answer about a domain or its variants, at most."""


class Params(Section):
    """How many tools, from where."""

    tools_per_domain: int = Field(ge=1, description="tools of each domain, the plain ones included")
    catalogue: int = Field(ge=0, description="tools made by grammar from the catalogue of domains (docs/tools.md)")
    llm_domains: int = Field(
        ge=0, description="domains that the LLM adds to the catalogue, whose tools are then made first; 0 asks no LLM"
    )
    servers: dict[str, ServerSpec] = Field(description="MCP servers whose tools are taken, by name (docs/tools.md)")
    declarations: str = Field(min_length=1, description="folder of JSON files with declarations of MCP tools")
    llm_descriptions: int = Field(ge=0, description="evolved tools whose description the LLM words; 0 asks no LLM")
    llm_max_tokens: int = Field(ge=16, description="tokens of such a description, at most")
    llm_temperature: float = Field(ge=0, le=2, description="sampling temperature of the descriptions")
    llm: dict[str, Any] = own_llm()


def run(params: Params, llm: LLMConfig, compute: Compute, declarations: Path, out: Path, job: Job) -> Metrics:
    """Write `tools.jsonl`, `refused.jsonl`, `servers.json`, `coverage.md`, and the LLM's domains to `catalogue`."""
    llm = llm.with_own(params.llm, "tools.llm")
    from collections import Counter

    from k2core.agentic.catalogue.entries import Entry, catalogue
    from k2core.agentic.catalogue.proposed import Proposals, propose, sensible
    from k2core.agentic.domains.taxonomy import domains
    from k2core.agentic.tasks.real_domain import real_domains
    from k2core.agentic.tools.declarations import Refused, declared_in
    from k2core.agentic.tools.descriptions import reword
    from k2core.agentic.tools.evolve import assign_splits, evolve, plain_tools, world_tools
    from k2core.agentic.tools.gate import coverage, from_catalogue, variants_of
    from k2core.agentic.tools.mcp import serve
    from k2core.agentic.tools.specs import write_tools
    from k2core.agentic.worlds.world import worlds
    from k2core.llm.client import LLM
    from k2core.storage import write_json, write_lines
    from k2core.storage.atomic import remove

    seed = compute.seed
    job.say(f"{params.tools_per_domain} tools in each of {len(domains())} domains, then {', '.join(params.servers)}")
    families: list[list[ToolSpec]] = []
    refused, plain = Counter[str](), set[str]()
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
        "evolved_refused": float(sum(refused.values())), "llm_descriptions": float(len(chosen)),
        "llm_descriptions_accepted": float(accepted),
    }  # fmt: skip
    figures |= {f"evolved_refused/{reason.replace(' ', '_')}": float(n) for reason, n in sorted(refused.items())}
    tools, set_aside = evolved, list[Refused]()
    for name, spec in params.servers.items():
        folder = job.scratch / "servers" / name
        remove(folder)
        folder.mkdir(parents=True)
        if name in real_domains():  # a server may want a world to start in
            real_domains()[name].make(folder, {})
        with serve(name, spec, folder) as server:
            listed, bad = server.tools()
        figures |= {f"mcp/{name}": float(len(listed)), f"mcp_refused/{name}": float(len(bad))}
        tools, set_aside = tools + listed, set_aside + bad
    of_worlds = [tool for world in worlds().values() for tool in world_tools(world)]
    tools, figures["worlds"] = tools + of_worlds, float(len(of_worlds))
    twice = [name for name, count in Counter(tool.name for tool in tools).items() if count > 1]
    if twice:
        raise StageError(
            f"two tools are called {', '.join(twice)}; rename the entity of a domain or a world, or leave a server out"
        )
    proposals, chosen_variants = Proposals(), set[str]()
    proposed: list[Entry] = []
    if params.llm_domains:
        if not params.catalogue:
            raise StageError("tools.llm_domains: tools of a catalogue are wanted too; set tools.catalogue above 0")
        job.say(f"{params.llm_domains} domains by {llm.model}")
        with LLM.open(llm, compute, job.answers) as client:
            how: dict[str, Any] = {"max_tokens": DOMAIN_TOKENS, "temperature": params.llm_temperature, "seed": seed}
            proposals = propose(client, params.llm_domains, catalogue(), **how)
            proposed = proposals.entries
            variants = {each.plural: variants_of(each, seed) for each in proposed}
            for names in sensible(client, variants, **how).values():
                chosen_variants |= names
        if not proposals.lines:
            raise StageError(
                f"{llm.model} proposed no domain that fits ({dict(proposals.refused)}); ask a larger model"
            )
        figures |= {
            "llm_domains": float(len(proposed)), "llm_categories": float(len(proposals.lines)),
            "llm_variants_sensible": len(chosen_variants) / max(1, sum(map(len, variants.values()))),
        }  # fmt: skip
        figures |= {f"llm_domains_refused/{why.replace(' ', '_')}": float(n) for why, n in proposals.refused.items()}
    made, reasons = from_catalogue(params.catalogue, seed, [tool.name for tool in tools], proposed, chosen_variants)
    if len(made) < params.catalogue:
        raise StageError(
            f"tools.catalogue = {params.catalogue}: its domains give {len(made)} tools; ask for at most as many, or "
            "add domains to k2core/agentic/catalogue"
        )
    made = assign_splits(made, {tool.name for tool in made if not tool.semantics["parent"]})
    tools = tools + made
    figures |= {"catalogue": float(len(made)), "catalogue_heldout": float(sum(t.split == "heldout" for t in made))}
    figures |= {f"catalogue_refused/{reason.replace(' ', '_')}": float(n) for reason, n in sorted(reasons.items())}
    declared = declared_in(declarations, [tool.name for tool in tools])
    tools, set_aside = tools + declared.tools, set_aside + declared.refused
    figures |= {"declared": float(len(declared.tools)), "declared_refused": float(len(declared.refused))}
    figures |= {f"declared_twice/{what}": float(declared.duplicates[what]) for what in ("name", "schema")}
    out.mkdir()
    write_json(out / "servers.json", {name: spec.model_dump() for name, spec in params.servers.items()})
    write_lines(out / "refused.jsonl", [refused.row() for refused in set_aside])
    if set_aside:
        first, many = set_aside[0], f"{len(set_aside)} declaration{'s' if len(set_aside) > 1 else ''}"
        job.closing = f"{many} refused: data/tools/refused.jsonl; the first, of {first.source}: {first.reason}"
    if proposals.lines:
        proposals.write(out / "catalogue")
    (out / "coverage.md").write_text(coverage(tools), encoding="utf-8")
    return {"tools": float(write_tools(out / "tools.jsonl", tools))} | figures


if __name__ == "__main__":
    main(run, SECTION)
