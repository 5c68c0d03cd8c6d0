"""Tools of the catalogue: 3,000 that are sensible, typed and proved; what the gate refuses; what the operations do."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from workspace import ROOT

from k2core.agentic.catalogue.entries import catalogue, entry
from k2core.agentic.domains.taxonomy import domains
from k2core.agentic.tasks.task import TaskMaker
from k2core.agentic.tools.evolve import evolve, plain_tools
from k2core.agentic.tools.gate import Gate, coverage, drafts_of, from_catalogue, proved
from k2core.agentic.tools.grammar import Draft, Rules
from k2core.agentic.tools.operations import OPERATIONS
from k2core.agentic.tools.simulator import Simulator, apply
from k2core.agentic.tools.specs import ToolSpec
from k2core.chat.parser import ToolCall
from k2core.llm.config import LLMConfig
from k2core.machine import Compute
from k2core.recipe import load_section
from k2core.stage import Job, StageError
from k2core.storage import read_lines
from stages import tools as stage

TEN = [tool.name for domain in domains().values() for tool in evolve(domain, 16, 1)[0]]
LOANS = entry("finance", "loans", {
    "loan": "code", "borrower": "person | who owes the money", "amount": "500..90000 EUR | money lent",
    "kind": "home, car | what it is for", "due_date": "date | last day", "tags?": "list of name | words for it",
    "secured": "yes/no | whether it is backed", "states": "requested, approve approved, reject rejected",
})  # fmt: skip
TABLE = {
    "A-1": {"borrower": "Ann Lee", "amount": 900, "kind": "car", "due_date": "2026-02-27", "tags": ["new"],
            "secured": True, "status": "requested"},
    "B-2": {"borrower": "Bo Ray", "amount": 5000, "kind": "home", "due_date": "2026-05-01", "tags": ["old", "big"],
            "secured": False, "status": "approved"},
    "C-3": {"borrower": "Cy Oak", "amount": 700, "kind": "car", "due_date": "2027-01-01", "secured": True,
            "status": "approved"},
}  # fmt: skip
DRAFTS = {
    draft.tool.name: draft
    for drafts in (Rules(LOANS).plain(), Rules(LOANS).variants(), Rules(LOANS).narrower())
    for draft in drafts
}


@pytest.fixture(scope="module")
def made() -> list[ToolSpec]:
    return from_catalogue(3000, 1, TEN)[0]


def schemas(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A schema and those inside it."""
    yield schema
    for inner in [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]:
        yield from schemas(inner)


def test_3000_tools_have_sensible_names_of_their_own(made: list[ToolSpec]) -> None:
    assert len(made) == 3000 == len({tool.name for tool in made})
    assert not {tool.name for tool in made} & set(TEN)
    verbs = {name.split("_")[0] for name in TEN} | {"count", "rank", "search", "export", "import", "copy", "rename"}
    verbs |= {"check", "mark", "clear", "postpone", "advance", "increase", "decrease", "create"}
    verbs |= {verb.split("_")[0] for domain in catalogue() for verb in domain.steps}
    for tool in made:
        words = tool.name.split("_")
        assert tool.name.isascii() and all(word.isalnum() and word.islower() for word in words)
        assert len(words) <= 5 and len(set(words)) == len(words)
        assert words[0] in verbs
        assert tool.description[0].isupper() and "_" not in tool.description


def test_every_parameter_of_them_is_typed_and_described(made: list[ToolSpec]) -> None:
    for tool in made[::10]:  # the gate has checked each, in the same way
        Draft202012Validator.check_schema(tool.parameters)
    kinds = Counter[str]()
    for tool in made:
        properties = tool.parameters["properties"]
        for schema in properties.values():
            assert schema["type"] in ("string", "integer", "number", "boolean", "array", "object")
            assert len(schema["description"]) > 3
        found = [schema for parameter in properties.values() for schema in schemas(parameter)]
        kinds.update({schema["type"] for schema in found})
        kinds.update({"enum" for schema in found if "enum" in schema})
        kinds.update({schema["format"] for schema in found if "format" in schema})
        kinds.update({"optional"} if set(properties) - set(tool.parameters["required"]) else set())
    wanted = ("string", "integer", "number", "boolean", "array", "object", "enum", "date", "optional")
    assert all(kinds[kind] >= 100 for kind in wanted), kinds


def test_every_operation_and_category_is_among_them_and_parents_are_kept(made: list[ToolSpec]) -> None:
    by_kind = Counter(tool.semantics["kind"] for tool in made)
    assert set(by_kind) == {*OPERATIONS, "create", "update", "delete", "adjust"}
    assert len({tool.category for tool in made}) >= 25 and len({tool.domain for tool in made}) >= 150
    everything = {draft.tool.name for rules in map(Rules, catalogue()) for draft in [*rules.plain(), *rules.variants()]}
    parents = [tool.semantics["parent"] for tool in made]
    assert set(parents) - {""} <= everything
    assert 1000 < parents.count("") < 2000
    table = coverage(made)
    assert table.count("\n") == 3 + len({tool.category for tool in made})
    assert table.splitlines()[-1].startswith("| all | 3000 | ")


def test_their_order_depends_on_the_seed_alone() -> None:
    first, again, other = ([draft.tool for draft in drafts_of(LOANS, seed)] for seed in (1, 1, 2))
    assert first == again != other
    assert sorted(tool.name for tool in first) == sorted(tool.name for tool in other)
    assert [tool.semantics["parent"] for tool in first[:8]] == [""] * 8
    assert from_catalogue(0, 1, TEN) == ([], Counter())


def test_the_gate_refuses_what_is_broken() -> None:
    gate, draft = Gate(["get_loan_kind"]), DRAFTS["find_loans_by_kind"]

    def renamed(name: str, **other: Any) -> Draft:
        return replace(draft, tool=replace(draft.tool, name=name, description=name, **other))

    assert gate.refusal(draft, TABLE) == ""
    assert gate.refusal(draft, TABLE) == "name taken"
    assert gate.refusal(DRAFTS["get_loan_kind"], TABLE) == "name taken"
    assert gate.refusal(renamed("search_loan_kinds"), TABLE) == "near duplicate"
    assert gate.refusal(replace(draft, tool=replace(draft.tool, name="hunt_loans")), TABLE) == "near duplicate"
    assert gate.refusal(renamed("find_loan_loans"), TABLE) == "word twice"
    assert gate.refusal(renamed("find_all_the_loans_by_kind"), TABLE) == "name too long"
    assert gate.refusal(renamed("Find_loans"), TABLE) == "name too long"
    assert gate.refusal(renamed("hunt_loans", parameters={"type": "thing"}), TABLE) == "schema"
    keyed = {**draft.tool.semantics, "kind": "delete"}
    assert gate.refusal(renamed("hunt_loans", operation=keyed), TABLE) == "not executable"


def test_a_tool_that_takes_wrong_calls_is_not_proved() -> None:
    draft = DRAFTS["set_loan_kind"]
    assert proved(draft, TABLE)
    loose = {**draft.tool.parameters, "additionalProperties": True}
    assert not proved(replace(draft, tool=replace(draft.tool, parameters=loose)), TABLE)
    nothing_needed = {**draft.tool.parameters, "required": []}
    assert not proved(replace(draft, tool=replace(draft.tool, parameters=nothing_needed)), TABLE)
    blind = {**draft.tool.semantics, "arguments": {"loan_id": "loan_id"}}  # says that it has changed what it has not
    assert not proved(replace(draft, tool=replace(draft.tool, operation=blind)), TABLE)


@pytest.mark.parametrize(
    "name, arguments, expected",
    [
        ("get_loan", {"loan_id": "A-1", "fields": ["kind"]}, {"loan": "A-1", "kind": "car"}),
        ("get_loan", {"loan_id": "X-9"}, {"error": "not found", "loan": "X-9"}),
        ("find_loans", {"kind": "car", "secured": True, "limit": 1}, {"found": ["A-1"], "count": 2}),
        ("list_loans", {"sort_by": "amount", "descending": True, "offset": 1}, {"found": ["A-1", "C-3"], "count": 3}),
        ("find_loans_by_amount", {"minimum": 800}, {"found": ["A-1", "B-2"], "count": 2}),
        ("find_loans_by_due_date", {"period": {"from": "2026-05-01", "until": "2026-12-31"}},
         {"found": ["B-2"], "count": 1}),
        ("find_loans_by_tag", {"tag": "big"}, {"found": ["B-2"], "count": 1}),
        ("find_loans_without_tags", {}, {"found": ["C-3"], "count": 1}),
        ("find_approved_loans_by_kind", {"kind": "car"}, {"found": ["C-3"], "count": 1}),
        ("get_latest_loan", {}, {"found": ["C-3"], "count": 3}),
        ("count_secured_loans", {}, {"count": 2}),
        ("count_loans_by_kind", {}, {"counts": {"car": 2, "home": 1}}),
        ("get_total_approved_loan_amount", {}, {"total": 5700}),
        ("get_average_loan_amount", {"kind": "car"}, {"average": 800.0}),
        ("get_maximum_rejected_loan_amount", {}, {"error": "nothing fits"}),
        ("get_earliest_approved_loan", {"kind": "car"}, {"found": ["C-3"], "count": 1}),
        ("find_secured_approved_loans", {}, {"found": ["C-3"], "count": 1}),
        ("export_approved_loans", {"format": "json", "fields": ["kind"]},
         {"rows": [{"loan_id": "B-2", "kind": "home"}, {"loan_id": "C-3", "kind": "car"}]}),
        ("get_minimum_loan_amount", {}, {"minimum": 700}),
        ("list_secured_loan_borrowers", {}, {"values": ["Ann Lee", "Cy Oak"]}),
        ("check_loan_exists", {"loan_id": "X-9"}, {"exists": False}),
        ("get_loans", {"loans": ["A-1", "X-9"]}, {"error": "not found", "loan": "X-9"}),
        ("get_loans", {"loans": ["C-3"], "fields": ["tags", "kind"]}, {"loans": {"C-3": {"kind": "car"}}}),
        ("export_loans", {"format": "csv", "fields": ["kind"]},
         {"csv": "loan_id,kind\r\nA-1,car\r\nB-2,home\r\nC-3,car\r\n"}),
        ("delete_approved_loans", {"dry_run": True}, {"would_delete": ["B-2", "C-3"]}),
        ("add_loan_tag", {"loan_id": "A-1", "tag": "new"}, {"loan": "A-1", "error": "in the list already"}),
        ("remove_loan_tag", {"loan_id": "C-3", "tag": "new"}, {"loan": "C-3", "error": "not in the list"}),
        ("clear_loan_tags", {"loan_id": "C-3"}, {"loan": "C-3", "error": "not set"}),
        ("copy_loan", {"loan_id": "A-1", "new_loan_id": "B-2"}, {"loan": "A-1", "error": "exists already"}),
    ],
)  # fmt: skip
def test_what_reads_or_cannot_be_done_leaves_the_world(name: str, arguments: dict, expected: dict) -> None:
    world = Simulator({name: DRAFTS[name].tool}, {"loan": TABLE})
    outcome = world.execute(ToolCall("functions.x:0", name, json.dumps(arguments)))
    assert outcome.valid and outcome.result == expected
    assert world.state == {"loan": TABLE}


@pytest.mark.parametrize(
    "name, arguments, key, expected",
    [
        ("postpone_loan_due_date", {"loan_id": "A-1", "days": 3}, "A-1", {"due_date": "2026-03-02"}),
        ("advance_loan_due_date", {"loan_id": "C-3", "days": 1}, "C-3", {"due_date": "2026-12-31"}),
        ("add_loan_tag", {"loan_id": "C-3", "tag": "new"}, "C-3", {"tags": ["new"]}),
        ("remove_loan_tag", {"loan_id": "B-2", "tag": "old"}, "B-2", {"tags": ["big"]}),
        ("decrease_loan_amount", {"loan_id": "C-3", "by": 50}, "C-3", {"amount": 650}),
        ("approve_loans", {"loans": ["A-1", "C-3"]}, "A-1", {"status": "approved"}),
        ("update_loans", {"loans": ["A-1", "C-3"], "changes": {"kind": "home"}}, "C-3", {"kind": "home"}),
        ("approve_loan", {"loan_id": "A-1", "note": "paid twice"}, "A-1", {"status": "approved", "note": "paid twice"}),
        ("copy_loan", {"loan_id": "A-1", "new_loan_id": "D-4"}, "D-4", {"amount": 900}),
        ("delete_approved_loans", {}, "C-3", None),
        ("delete_loans", {"loans": ["A-1", "C-3"]}, "C-3", None),
    ],
)  # fmt: skip
def test_what_writes_changes_the_record(name: str, arguments: dict, key: str, expected: dict | None) -> None:
    state = json.loads(json.dumps({"loan": TABLE}))
    assert "error" not in apply(DRAFTS[name].tool.semantics, arguments, state)
    record = state["loan"].get(key)
    assert record is None if expected is None else record.items() >= expected.items()


def test_an_import_of_a_key_that_is_there_changes_nothing() -> None:
    tool, state = DRAFTS["import_loans"].tool, {"loan": {"A-1": {"amount": 1}}}
    rows = [{"loan_id": key, "amount": 600} for key in ("Z-9", "A-1")]
    assert apply(tool.semantics, {"loans": rows}, state) == {"error": "exists already", "loan": "A-1"}
    assert state == {"loan": {"A-1": {"amount": 1}}}
    assert apply(tool.semantics, {"loans": rows[:1]}, state) == {"result": "created", "count": 1}
    assert state["loan"]["Z-9"] == {"status": "requested", "amount": 600}


@pytest.mark.parametrize(
    "lines, said",
    [
        ({"loan": "number"}, "loan: the first line is the entity"),
        ({"loan": "code"}, "states: missing"),
        ({"loan": "code", "kind": "home, car", "states": "open, close closed"}, "kind: write `kind . what it is`"),
        ({"loan": "code", "kind": "home, car | kind", "states": "open, close closed"}, "in two words or more"),
        ({"loan": "code", "kind": "colour | of it", "states": "open, close closed"}, "kind: no kind 'colour'"),
        ({"loan": "code", "staff": "list of name | who works", "states": "open, close closed"}, "must end in s"),
        ({"lease": "code", "states": "open, close closed"}, "the plural of lease is leases"),
    ],
)
def test_a_line_that_does_not_fit_is_named(lines: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        entry("finance", "loans", lines)


def test_a_task_may_offer_a_tool_of_the_catalogue_but_is_never_about_one(made: list[ToolSpec]) -> None:
    ten = {tool.name: tool for domain in domains().values() for tool in plain_tools(domain)}
    extra = {tool.name: replace(tool) for tool in Random(1).sample(made, 200)}
    alone = [TaskMaker(ten | extra, {"single": 1}, 5).task("train", i) for i in range(20)]
    assert all(set(task["tools"]) <= set(ten) for task in alone)
    offered = [TaskMaker(ten | extra, {"single": 1}, 5, 1.0).task("train", i) for i in range(20)]
    assert sum(bool(set(task["tools"]) & set(extra)) for task in offered) > 10
    assert all(call["name"] in ten for task in offered for call in task["gold_calls"])


def run_stage(folder: Path, catalogue: int) -> tuple[list[dict], dict[str, float], str]:
    """The rows of `tools.jsonl`, the metrics and what is said at the end, without servers and without an LLM."""
    recipe = ROOT / "recipes/laptop.yaml"
    params = load_section(stage.Params, recipe, "tools").model_copy(
        update={"servers": {}, "llm_descriptions": 0, "catalogue": catalogue}
    )
    llm, compute = load_section(LLMConfig, recipe, "llm"), load_section(Compute, recipe, "compute")
    job = Job("tools", folder / "scratch", None)
    figures = stage.run(params, llm, compute, folder, folder / "out", job)
    return list(read_lines(folder / "out/tools.jsonl")), figures, job.closing


def test_the_stage_adds_as_many_as_the_recipe_says(tmp_path: Path) -> None:
    without, with_30 = tmp_path / "0", tmp_path / "30"
    without.mkdir(), with_30.mkdir()
    before, _, said = run_stage(without, 0)
    assert said == ""
    (with_30 / "none.json").write_text('[{"name": "a b"}, {"name": "a"}]')
    rows, figures, said = run_stage(with_30, 30)
    assert said == (
        "2 declarations refused: data/tools/refused.jsonl; the first, of none.json: name: not 1 to 64 letters, "
        "digits, _, . or -, a letter or _ first"
    )
    assert figures["declared_refused"] == 2 and "refused" not in figures
    assert rows[: len(before)] == before and len(rows) == len(before) + 30
    assert figures["catalogue"] == 30
    assert "| agriculture | " in (with_30 / "out/coverage.md").read_text()


def test_more_than_the_grammar_makes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("k2core.agentic.tools.gate.catalogue", lambda: [LOANS])
    with pytest.raises(StageError, match=r"tools\.catalogue = 900: its domains give \d\d\d tools; ask for at most"):
        run_stage(tmp_path, 900)
