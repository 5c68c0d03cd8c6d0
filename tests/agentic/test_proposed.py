"""Domains that an LLM adds to the catalogue: read by its rules, proved by its gate, open to tasks."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from workspace import ROOT

from k2core.agentic.catalogue.entries import catalogue, entries_in
from k2core.agentic.catalogue.proposed import DOMAIN, domain_lines, propose, sensible
from k2core.agentic.tasks.richer import RicherMaker
from k2core.agentic.tools.gate import from_catalogue, variants_of
from k2core.agentic.tools.specs import read_tools
from k2core.llm.client import Answer, Refused, Request
from k2core.llm.config import LLMConfig
from k2core.machine import Compute
from k2core.recipe import load_section
from k2core.stage import Job, StageError
from stages import tools as stage

HOW = {"max_tokens": 300, "temperature": 0.5, "seed": 1}
AQUARIUM = {
    "key": "name", "start": "filled",
    "fields": [
        {"name": "volume", "kind": "whole number", "least": 20, "most": 900, "unit": "liters",
         "description": "water that it holds", "optional": False},
        {"name": "keeper", "kind": "person", "description": "who feeds the fish", "optional": False},
        {"name": "water", "kind": "values", "values": ["fresh", "salt"], "description": "kind of water",
         "optional": True},
    ],
    "steps": [{"verb": "clean", "state": "cleaned"}, {"verb": "drain", "state": "empty"}],
}  # fmt: skip


class Proposer:
    """Answers by what is asked, each answer admitted by the request's schema unless it is meant to break it."""

    def __init__(self, fields: Callable[[str], Any]) -> None:
        self.fields, self.asked = fields, list[str]()

    def complete_many(self, requests: Iterable[Request], *, set_aside: bool) -> list[Answer | Refused]:
        assert set_aside
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Answer | Refused:
        text = request.messages[-1]["content"]
        assert request.schema is not None
        Draft202012Validator.check_schema(request.schema)
        self.asked.append(text)
        if "further categories" in text:
            found: Any = {"categories": ["pets", "finance"]}
        elif text.startswith("Category"):
            found = {"entities": ["aquarium", "loan", "terrarium"]}
        elif "could offer these tools" in text:
            names = request.schema["properties"]["names"]["items"]["enum"]
            found = {"names": [name for name in names if wanted(name)]}
        else:
            found = self.fields(text)
        return found if isinstance(found, Refused) else Answer(json.dumps(found), "stop", 9)


def wanted(name: str) -> bool:
    return not name.startswith(("export", "import"))


def aquariums_alone(text: str) -> Any:
    return AQUARIUM if "aquarium" in text else Refused("no JSON")


def test_what_an_llm_proposes_is_a_domain_like_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = Proposer(aquariums_alone)
    made = propose(llm, 8, catalogue(), **HOW)  # type: ignore[arg-type]
    assert list(made.lines) == ["pets"]
    assert made.lines["pets"]["aquariums"]["volume"] == "20..900 liters | water that it holds"
    assert made.refused == {"category known": 1, "entity known": 1, "domain does not fit": 1}
    made.write(tmp_path / "catalogue")
    (aquarium,) = entries_in(tmp_path / "catalogue")
    assert (aquarium.category, aquarium.states) == ("pets", ["filled", "cleaned", "empty"])
    names = variants_of(aquarium, 1)
    chosen = sensible(llm, {"aquariums": names}, **HOW)["aquariums"]  # type: ignore[arg-type]
    assert chosen == {name for name in names if wanted(name)} != set(names)
    monkeypatch.setattr("k2core.agentic.tools.gate.catalogue", list)
    tools, refused = from_catalogue(200, 1, [], made.entries, chosen)
    own = [tool for tool in tools if tool.domain == "aquariums"]
    assert {tool.name for tool in own if tool.semantics["parent"]} == chosen
    assert {"get_aquarium", "clean_aquarium", "drain_aquarium"} <= {tool.name for tool in own}
    assert refused["not sensible"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": [{"verb": "fill", "state": "filled"}]}, "one state alone"),
        ({"steps": [{"verb": "drain", "state": "empty"}, {"verb": "drain", "state": "dry"}]}, "a verb twice"),
        ({"fields": [AQUARIUM["fields"][1]] * 3}, "a field or a verb twice"),  # type: ignore[index]
        ({"fields": [{"name": "status", "kind": "person", "description": "who is in", "optional": False}]}, "twice"),
        ({"fields": [AQUARIUM["fields"][0] | {"least": 9, "most": 9}]}, "from 9 to 9"),  # type: ignore[index]
        ({"fields": [AQUARIUM["fields"][2] | {"values": ["salt", "salt"]}]}, "fewer than two values"),  # type: ignore[index]
    ],
)
def test_what_the_schema_cannot_forbid_is_refused(change: dict[str, Any], said: str) -> None:
    Draft202012Validator(DOMAIN["properties"]["fields"]["items"]).validate(AQUARIUM["fields"][0])  # type: ignore[index]
    with pytest.raises(ValueError, match=re.escape(said)):
        domain_lines("aquarium", AQUARIUM | change)


@pytest.mark.parametrize("answer", ["", "null", "[]", '{"fields": 1}', '{"key": "name", "fields": [{}]}'])
def test_broken_answers_cost_their_domain_alone(answer: str) -> None:
    class Broken(Proposer):
        def _answer(self, request: Request) -> Answer | Refused:
            good = super()._answer(request)
            return Answer(answer, "stop", 1) if "terrarium" in request.messages[-1]["content"] else good

    made = propose(Broken(lambda _: AQUARIUM), 8, catalogue(), **HOW)  # type: ignore[arg-type]
    assert list(made.lines["pets"]) == ["aquariums"] and made.refused["domain does not fit"] == 1


def test_what_is_no_name_becomes_no_file(tmp_path: Path) -> None:
    """A server that does not hold answers to their schema."""

    class Careless(Proposer):
        def _answer(self, request: Request) -> Answer | Refused:
            text = request.messages[-1]["content"]
            if "further categories" in text:
                return Answer('{"categories": ["../pets", "pets"]}', "stop", 1)
            if text.startswith("Category"):
                return Answer('{"entities": ["aquarium\\n", "a/b", "aquarium", "terrarium"]}', "stop", 1)
            return super()._answer(request)

    spoilt = AQUARIUM | {"steps": [{"verb": "cl ean", "state": "cleaned"}]}
    made = propose(
        Careless(lambda text: spoilt if "terrarium" in text else AQUARIUM),
        16,
        catalogue(),
        **HOW,  # type: ignore[arg-type]
    )
    assert {category: list(found) for category, found in made.lines.items()} == {"pets": ["aquariums"]}
    assert made.refused["domain does not fit"] == 1
    made.write(tmp_path / "catalogue")
    assert [path.name for path in tmp_path.rglob("*.yaml")] == ["pets.yaml"]


def run_stage(folder: Path, llm: Proposer, monkeypatch: pytest.MonkeyPatch, **changes: int) -> dict[str, float]:
    @contextmanager
    def opened(*_: object) -> Iterator[Proposer]:
        yield llm

    monkeypatch.setattr("k2core.llm.client.LLM.open", opened)
    recipe = ROOT / "recipes/laptop.yaml"
    wanted = {"servers": {}, "llm_descriptions": 0, "llm_domains": 8, "catalogue": 60} | changes
    params = load_section(stage.Params, recipe, "tools").model_copy(update=wanted)
    compute = load_section(Compute, recipe, "compute")
    job = Job("tools", folder / "scratch", None)
    return stage.run(params, load_section(LLMConfig, recipe, "llm"), compute, folder, folder / "out", job)


def test_tasks_are_about_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k2core.agentic.tools.gate.catalogue", list)
    figures = run_stage(tmp_path, Proposer(aquariums_alone), monkeypatch)
    assert (figures["llm_domains"], figures["llm_domains_refused/domain_does_not_fit"]) == (1, 1)
    tools = read_tools(tmp_path / "out/tools.jsonl")
    proposed = entries_in(tmp_path / "out/catalogue")
    maker = RicherMaker(tools, {"store": 1.0}, [1.0], 1, proposed=proposed)
    about = [maker.task("train", i) for i in range(30)]
    assert all("aquarium" in name for task in about for name in task["tools"])


def test_without_a_domain_that_fits_the_stage_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StageError, match="proposed no domain that fits"):
        run_stage(tmp_path, Proposer(lambda _: None), monkeypatch)
    with pytest.raises(StageError, match=r"tools\.catalogue above 0"):
        run_stage(tmp_path, Proposer(aquariums_alone), monkeypatch, catalogue=0)
