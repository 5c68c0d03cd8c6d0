"""The richer kinds of tasks: over worlds and over stores, with streams of their own.

The five kinds of `k2core.agentic.tasks.plans` do not change when these are added, taken away or weighted otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from k2core.agentic.catalogue.entries import Entry
from k2core.agentic.domains.taxonomy import Draws, Split
from k2core.agentic.tasks import world_stories
from k2core.agentic.tasks.store_stories import Shelf, shelves, story
from k2core.agentic.tasks.story import Story, write
from k2core.agentic.tasks.task import Task
from k2core.agentic.tools.specs import ToolSpec
from k2core.agentic.worlds.world import worlds
from k2core.synthesis.values import Values

STORE = "store"
KINDS = (*world_stories.KINDS, STORE)


class RicherMaker:
    """Makes task number i of a split as a pure function of (seed, split, i, attempt), the tools and the open values.

    Args:
        mix: weight of each kind.
        calls: of the kind steps, the weights of chains of 2, 3, … calls.
        proposed: domains that an LLM added to the catalogue.
    """

    def __init__(
        self, tools: Mapping[str, ToolSpec], mix: Mapping[str, float], calls: Sequence[float], seed: int,
        values: Values | None = None, proposed: Sequence[Entry] = (),
    ) -> None:  # fmt: skip
        self.mix, self.calls, self.seed, self.values = mix, calls, seed, values or Values()
        self.tools = {
            name: {tool.name: tool for tool in tools.values() if (tool.origin, tool.domain) == ("world", name)}
            for name in worlds()
        }
        self.shelves: list[Shelf] = shelves(tools, proposed) if mix.get(STORE) else []

    def task(self, split: Split, number: int, attempt: int = 0) -> Task:
        """Task `number`; another `attempt` gives another task of the same kind."""
        name = f"{split}-richer-{number:05}"
        random = Random(f"{self.seed}/richer/{name}")
        kind = random.choices(list(self.mix), list(self.mix.values()))[0]
        calls = 2 + random.choices(range(len(self.calls)), self.calls)[0]
        draws = Draws(Random(f"{self.seed}/richer/{name}/{attempt}"), split, self.values)
        drawn = None
        while drawn is None:  # what is drawn may not suit the kind
            drawn = self._story(kind, calls, draws)
        return write(drawn, name, kind, draws)

    def _story(self, kind: str, calls: int, draws: Draws) -> Story | None:
        if kind == STORE:
            return story(draws.random.choice(self.shelves), draws)
        open_to = [world for world in worlds().values() if draws.split == "heldout" or not world.heldout]
        world = draws.random.choice(open_to)
        return world_stories.KINDS[kind](world_stories.Scene(world, self.tools[world.world], draws), calls)
