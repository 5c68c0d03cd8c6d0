"""Evolved tools: valid schemas, unique, executable, reproducible; and what the gates refuse."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from jsonschema import Draft202012Validator

from k2core.agentic.domains.taxonomy import Draws, domains, split_of
from k2core.agentic.tools.descriptions import fitting
from k2core.agentic.tools.evolve import assign_splits, describe, evolve, executable, plain_tools, refusal


@pytest.mark.parametrize("name", list(domains()))
def test_evolved_tools_are_valid_unique_and_executable(name: str) -> None:
    domain = domains()[name]
    tools, refused = evolve(domain, 16, seed=3)
    assert len(tools) == 16
    assert sum(refused.values()) > 0
    assert len({tool.name for tool in tools}) == 16
    for tool in tools:
        Draft202012Validator.check_schema(tool.parameters)
        properties = set(tool.parameters["properties"])
        assert set(tool.parameters["required"]) <= properties == set(tool.semantics["arguments"])
        assert executable(domain, tool)
        assert any(noun in describe(domain, tool) for noun in (domain.entity, domain.plural))
    assert evolve(domain, 16, seed=3)[0] == tools
    assert evolve(domain, 16, seed=4)[0] != tools


def test_plain_tools_stay_in_training_and_some_evolved_ones_are_held_out() -> None:
    domain = domains()["calendar"]
    plain = {tool.name for tool in plain_tools(domain)}
    tools = assign_splits(evolve(domain, 24, seed=1)[0], plain)
    assert {tool.split for tool in tools if tool.name in plain} == {"train"}
    assert {tool.split for tool in tools} == {"train", "heldout"}


def test_the_gate_refuses_what_is_broken() -> None:
    domain = domains()["todo"]
    tool, *others = plain_tools(domain)
    assert refusal(domain, replace(tool, name="x"), others) is None
    assert refusal(domain, replace(tool, name=others[0].name), others) == "name taken"
    assert refusal(domain, replace(tool, name="x" * 40), others) == "name too long"
    assert refusal(domain, replace(tool, parameters={**tool.parameters, "type": "thing"}), others) == "schema"
    twins = [replace(tool, name="x"), replace(tool, name="y")]
    assert refusal(domain, replace(tool, name="z"), twins) == "duplicate"
    lacking = {**tool.parameters, "required": [*tool.parameters["required"], "color"]}
    assert refusal(domain, replace(tool, name="x", parameters=lacking), others) == "not executable"


@pytest.mark.parametrize(
    "text, accepted",
    [
        ("Retrieve the status of a given task.", True),
        ("Get the status of a task", False),  # nothing new
        ("Get the status of a task using JavaScript", False),  # invented
        ("The status of a task", False),  # no verb
        ("Delete the status of a task", False),  # another operation
        ("Get the priority of a task", False),  # another field
        ("Retrieve a task", False),  # the field is lost
        ("Get the status of a task from the task", False),  # clumsy
        ("Retrieve the status of a " + "given " * 20 + "task", False),
    ],
)
def test_the_gate_of_descriptions(text: str, accepted: bool) -> None:
    tool = next(tool for tool in evolve(domains()["todo"], 40, 1)[0] if tool.description == "Get the status of a task")
    assert (fitting(tool, json.dumps({"description": text})) is not None) == accepted
    assert fitting(tool, "no json") is None


def test_values_belong_to_one_split() -> None:
    from random import Random

    random = Random(1)
    for domain in domains().values():
        for spec in domain.fields.values():
            for split in ("train", "heldout"):
                drawn = {spec.draw(Draws(random, split)) for _ in range(20)}
                assert spec.enum or {split_of(value) for value in drawn} == {split}
