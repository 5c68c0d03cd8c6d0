"""Tasks need kinds that there are, and the servers whose tools they use."""

from __future__ import annotations

from collections.abc import Iterator

from k2core.agentic.tasks.plans import KINDS
from k2core.agentic.tools.mcp import SERVERS
from stages.tasks import Params
from stages.tools import Params as Tools


def servers_that_there_are(tools: Tools, tasks: Params) -> Iterator[str]:
    for name in tools.servers:
        if name not in SERVERS:
            yield f"tools.servers: no MCP server {name}; there are {', '.join(SERVERS)}"
    if tasks.git and "git" not in tools.servers:
        yield f"tasks.git = {tasks.git}: tools.servers lacks git, whose tools they use; add it or set tasks.git to 0"


def kinds_with_a_weight(tasks: Params) -> Iterator[str]:
    for name, weight in tasks.mix.items():
        if name not in KINDS:
            yield f"tasks.mix.{name}: no such kind of task; there are {', '.join(KINDS)}"
        if weight < 0:
            yield f"tasks.mix.{name} = {weight:g}: a weight is not below 0"
    if not any(tasks.mix.values()):
        yield "tasks.mix: give at least one kind a weight above 0"
