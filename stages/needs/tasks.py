"""Tasks need kinds that exist, and the servers whose tools they use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from k2core.agentic.tasks.plans import KINDS
from k2core.agentic.tasks.real_domain import real_domains
from k2core.agentic.tasks.richer import KINDS as RICHER
from k2core.agentic.tasks.richer import STORE
from stages.tasks import Params
from stages.tools import Params as Tools


def servers_of_the_real_tasks(tools: Tools, tasks: Params) -> Iterator[str]:
    for name, count in tasks.real.items():
        if name not in real_domains():
            yield f"tasks.real.{name}: no tasks on such a server; there are {', '.join(real_domains())}"
        elif count and name not in tools.servers:
            yield f"tasks.real.{name} = {count}: tools.servers lacks {name}, whose tools they use; add it or set 0"


def declarations_to_offer(tools: Tools, tasks: Params) -> Iterator[str]:
    if not Path(tools.declarations).is_dir():
        yield f"tools.declarations = {tools.declarations!r}: no such folder"


def kinds_with_a_weight(tasks: Params) -> Iterator[str]:
    for key, mix, kinds in (("tasks.mix", tasks.mix, KINDS), ("tasks.richer.mix", tasks.richer.mix, RICHER)):
        for name, weight in mix.items():
            if name not in kinds:
                yield f"{key}.{name}: no such kind of task; there are {', '.join(kinds)}"
            if weight < 0:
                yield f"{key}.{name} = {weight:g}: a weight cannot be below 0"
        if not any(mix.values()):
            yield f"{key}: give at least one kind a weight above 0"
    if not any(tasks.richer.calls) or min(tasks.richer.calls) < 0:
        yield "tasks.richer.calls: give at least one length a weight above 0 and none a weight below it"


def a_catalogue_for_the_stores(tools: Tools, tasks: Params) -> Iterator[str]:
    if tasks.richer.mix.get(STORE) and not tools.catalogue:
        yield "tasks.richer.mix.store: tools.catalogue = 0 gives it no tools; raise that or set this to 0"
