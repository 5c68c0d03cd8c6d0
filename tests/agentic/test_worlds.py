"""Worlds: tables that links join, and tools that obey the policy."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from k2core.agentic.domains.taxonomy import Draws
from k2core.agentic.tools.evolve import world_tools
from k2core.agentic.tools.policy import SESSION, broken, holds, session
from k2core.agentic.tools.simulator import Simulator, state_hash
from k2core.agentic.worlds.world import World, worlds
from k2core.chat.parser import ToolCall
from k2core.recipe import RecipeError, validate

TOOLS = {tool.name: tool for world in worlds().values() for tool in world_tools(world)}
STATE: dict[str, Any] = {
    SESSION: session("Ana Berg"),
    "client": {"Ana Berg": {"rank": "private", "city": "Rome"}, "Bo Li": {"rank": "business", "city": "Oslo"}},
    "card": {
        "A-1": {"client": "Ana Berg", "ceiling": 400, "state": "active"},
        "B-2": {"client": "Bo Li", "ceiling": 400, "state": "active"},
        "C-3": {"client": "Bo Li", "ceiling": 400, "state": "blocked"},
    },
    "deposit": {"D-4": {"client": "Ana Berg", "balance": 900, "limit": 100}},
}


def call(name: str, **arguments: object) -> tuple[dict[str, Any], bool]:
    """The result, and whether the world is as it was."""
    world = Simulator(TOOLS, STATE)
    result = world.execute(ToolCall(f"functions.{name}:0", name, json.dumps(arguments))).result
    assert isinstance(result, dict)
    return result, state_hash(world.state) == state_hash(STATE)


@pytest.mark.parametrize(
    "name, arguments, refused",
    [
        ("set_card_ceiling", {"code": "A-1", "ceiling": 5000}, ""),
        ("set_card_ceiling", {"code": "A-1", "ceiling": 5001}, "Only business clients"),  # by a link and an argument
        ("set_card_ceiling", {"code": "B-2", "ceiling": 5001}, ""),
        ("set_card_ceiling", {"code": "C-3", "ceiling": 10}, "A blocked card"),
        ("unblock_card", {"code": "A-1"}, ""),
        ("unblock_card", {"code": "C-3"}, "A card is unblocked for its client alone."),  # whom the agent talks to
        ("block_card", {"code": "C-3"}, ""),
        ("pay_out_deposit", {"code": "D-4", "amount": 100}, ""),
        ("pay_out_deposit", {"code": "D-4", "amount": 101}, "More than the limit"),  # by another field
        ("pay_out_deposit", {"code": "X", "amount": 101}, "not found"),
    ],
)
def test_a_tool_obeys_the_policy(name: str, arguments: dict[str, Any], refused: str) -> None:
    result, same = call(name, **arguments)
    assert refused in result.get("error", "") and ("error" in result) == bool(refused)
    assert same or not refused


def test_every_rule_can_forbid_and_can_let_pass() -> None:
    for world in worlds().values():
        for rule in world.policy:
            outcomes = set()
            for seed in range(200):
                random = Random(f"{rule.says}/{seed}")
                draws, tool = Draws(random, "train"), TOOLS[rule.tools[0]]
                state: dict[str, Any] = {}
                for entity, table in world.tables.items():
                    state[entity] = dict(table.record(draws) for _ in range(2))
                for entity, records in state.items():
                    for record in records.values():
                        record |= {n: random.choice(list(state[t])) for n, t in world.links(entity).items()}
                state[SESSION] = session(random.choice(list(state[world.me])))
                domain = world.tables[tool.semantics["entity"]]
                arguments = {domain.key: random.choice(list(state[domain.entity]))}
                for name, field in tool.semantics["arguments"].items():
                    if name != domain.key:
                        arguments[name] = (
                            random.randint(1, 9000) if name == "amount" else domain.fields[field].draw(draws)
                        )
                if len(outcomes) == 2:
                    break
                outcomes.add(rule.says in [each["says"] for each in broken(tool.semantics, arguments, state)])
            assert outcomes == {True, False}, rule


def test_worlds_are_whole_and_have_values_for_both_splits() -> None:
    assert len([world for world in worlds().values() if not world.heldout]) >= 6
    assert len(TOOLS) == sum(len(world_tools(world)) for world in worlds().values())
    for world in worlds().values():
        assert len(world.tables) >= 2 and world.policy
        for table in world.tables.values():
            steps = [step.phrase for step in [*table.transitions, *table.adjustments]]
            assert all(f"the {table.entity} {{" in phrase for phrase in steps), steps
            for split in ("train", "heldout"):
                for seed in range(20):
                    table.record(Draws(Random(seed), split))
    for tool in TOOLS.values():
        Draft202012Validator.check_schema(tool.parameters)
        assert tool.description and tool.origin == "world"


def test_a_world_that_does_not_fit_is_refused_with_a_sentence() -> None:
    lamp = {"plural": "lamps", "key": "name", "fields": {"name": {"open": "phrase"}, "room": {"link": "room"}},
            "entity": "lamp", "category": "c", "domain": "w", "system": "s"}  # fmt: skip
    raw = {"world": "w", "category": "c", "system": "s", "me": "lamp", "tables": {"lamp": lamp}, "policy": []}
    with pytest.raises(RecipeError, match="no table room; there are lamp"):
        validate(World, raw, "worlds/w.yaml")
    lamp["fields"]["room"] = {"link": "lamp"}  # type: ignore[index]
    rule = {"says": "No.", "tools": ["eat_lamp"], "when": [["name", "in", ["x"]]]}
    world = validate(World, raw | {"policy": [rule]}, "worlds/w.yaml")
    with pytest.raises(ValueError, match="worlds: w: a rule is for eat_lamp, which is no tool of it"):
        world_tools(world)


@pytest.mark.parametrize("left, right", [("a", 3), (None, 3), (3, None), ([], {}), (3, 3)])
def test_a_test_of_odd_values_does_not_hold_and_does_not_raise(left: Any, right: Any) -> None:
    assert not holds([[left, "above", right]], lambda value: value)
    assert holds([[4, "above", 3], ["a", "in", ["a"]], [[], "not_in", ["a"]]], lambda value: value)
