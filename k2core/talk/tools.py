"""Tools for a chat: those of a simulated domain, in a small world drawn for the occasion, or those of an MCP server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from k2core.agentic.domains.taxonomy import Draws, domains
from k2core.agentic.tasks.real_domain import real_domains
from k2core.agentic.tools.goals import draw_state
from k2core.agentic.tools.mcp import ServerFault, ServerSpec, read_servers, serve
from k2core.agentic.tools.simulator import Simulator, State, check_call
from k2core.agentic.tools.specs import ToolSpec, read_tools
from k2core.chat.parser import ToolCall
from k2core.stage import StageError

PLAIN = ("get", "create", "update", "delete")
"""The kinds of operations of which a domain's chat has one tool each."""


@dataclass(frozen=True)
class Tools:
    """What the model is told of, and what happens when it calls.

    Attributes:
        declarations: in OpenAI's format.
        make: carries out a call; the text that the model reads.
        outside: whether a call acts on more than a world made up for this chat.
        system: the system message; empty for the session's own.
        world: what there is to ask about, for the person.
    """

    declarations: list[dict[str, Any]]
    make: Callable[[ToolCall], str]
    outside: bool = False
    system: str = ""
    world: str = ""


class Cupboard:
    """The tools that can be had: the stage `tools` wrote them to `folder`."""

    def __init__(self, folder: Path) -> None:
        self.specs = read_tools(folder / "tools.jsonl")
        self.servers: Mapping[str, ServerSpec] = read_servers(folder / "servers.json")

    @property
    def names(self) -> list[str]:
        """Domains, then servers."""
        return [*domains(), *self.servers]

    @contextmanager
    def open(self, name: str, wanted: Sequence[str], seed: int, folder: Path) -> Iterator[Tools]:
        """The tools of a domain or a server while the block runs.

        Args:
            wanted: names of tools; none: of a domain one of each plain kind, of a server those that its tasks call, or
                all where it has no tasks.
            folder: in which a server runs, and its world is set up.

        Raises:
            StageError: no such domain, server or tool, or the server does not start.
        """
        if name in domains():
            yield self._domain(name, wanted, seed)
        elif name in self.servers:
            domain = real_domains().get(name)
            state = domain.wish(0, Random(f"{seed}/talk/{name}")).initial if domain else {}
            if domain:
                domain.make(folder, state)
            with serve(name, self.servers[name], folder, domain.environment if domain else None) as server:
                offered = {spec.name: spec for spec in server.tools()[0]}
                specs = _chosen(offered, wanted or ([*domain.tools] if domain else []), name)

                def make(call: ToolCall) -> str:
                    try:
                        return server.call(call.name, check_call(call, specs)[1])
                    except (ValueError, ServerFault) as error:
                        return f"error: {error}"

                declarations = [spec.wire() for spec in specs.values()]
                yield Tools(declarations, make, True, domain.system if domain else "", _shown(state))
        else:
            raise StageError(f"no tools {name}; there are {', '.join(self.names)}")

    def _domain(self, name: str, wanted: Sequence[str], seed: int) -> Tools:
        domain = domains()[name]
        of_domain = {spec.name: spec for spec in self.specs.values() if spec.domain == name and spec.operation}
        kinds: dict[str, str] = {}
        for spec in of_domain.values():
            if spec.split == "train" and spec.origin != "catalogue":
                kinds.setdefault(spec.semantics["kind"], spec.name)
        specs = _chosen(of_domain, wanted or [kinds[kind] for kind in PLAIN if kind in kinds], name)
        state = draw_state(domain, Draws(Random(f"{seed}/talk/{name}"), "train"))
        world = Simulator(specs, state)
        said = _shown({domain.entity: state[domain.entity]})
        declarations = [spec.wire() for spec in specs.values()]
        return Tools(declarations, lambda call: world.execute(call).text, system=domain.system, world=said)


def _shown(state: State) -> str:
    """A world, a line for each of its things."""
    return "\n".join(
        f"  {kind} {key}: " + ", ".join(f"{field} {value}" for field, value in record.items())
        for kind, things in state.items()
        for key, record in things.items()
    )


def _chosen(specs: Mapping[str, ToolSpec], wanted: Sequence[str], of: str) -> dict[str, ToolSpec]:
    if unknown := sorted(set(wanted) - set(specs)):
        raise StageError(f"{of} has no tool {', '.join(unknown)}; it has {', '.join(specs)}")
    return {name: specs[name] for name in wanted} if wanted else dict(specs)
