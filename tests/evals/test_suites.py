"""Every suite: perfect replies get all, useless ones their chance; what asks about data says where it is not."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from suite_data import AREA, AREA_ANSWER, FILTER, FILTER_ANSWER, row, write_bfcl, write_run

from k2core.chat.special_tokens import IM_END
from k2core.chat.template import reply_text
from k2core.evals.candidates import Reply, Wanted
from k2core.evals.environments import chosen_items
from k2core.evals.questions import gives
from k2core.evals.side_by_side import asked_environments, measure
from k2core.evals.suites import bfcl
from k2core.evals.suites.faithfulness import UNSAID
from k2core.gym.base import Environment, Item
from k2core.gym.registry import text_environments
from k2core.recipe import modules_in
from k2core.sandbox.backends import missing
from k2core.stage import StageError
from k2core.storage import StorageError, write_lines

SUITES = set(modules_in("k2core.evals.suites"))
ITEMS = 60


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Environment]:
    folder = tmp_path_factory.mktemp("suites")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(write_bfcl(folder / "packages")))
        found, absent = asked_environments(write_run(folder / "data"), [])
    assert set(absent) == {"coding", "swe"} | ({"humaneval"} if missing() else set())
    assert "its recipe says in programs.problems" in absent["coding"]
    assert set(found) | set(absent) == SUITES | set(text_environments())
    assert all(name == environment.name for name, environment in found.items())
    return found


@pytest.fixture(scope="module")
def quick(environments: dict[str, Environment]) -> dict[str, Environment]:
    """Those whose verdict takes no process, and that have items."""
    return {name: each for name, each in environments.items() if name != "humaneval" and each.size("heldout")}


def rate(environment: Environment, says: Callable[[Item], str]) -> float:
    chosen = chosen_items({"x": environment}, ITEMS, 1)
    return sum(environment.score(item, says(item)) >= 1 for _, _, item in chosen) / len(chosen)


def test_perfect_replies_get_all_and_useless_ones_their_chance(quick: dict[str, Environment]) -> None:
    assert {"instructions", "knowledge", "faithfulness", "bfcl", "needles"} <= quick.keys()
    chance = {"logic": (0.3, 0.7)}
    for name, environment in quick.items():
        assert rate(environment, lambda item: reply_text(item.gold)) == 1, name
        assert rate(environment, lambda item: IM_END) == 0, f"{name}: an empty reply"
        assert rate(environment, lambda item: item.messages[-1]["content"] + IM_END) == (
            1 / 5 if name == "bfcl" else 0
        ), f"{name}: the prompt itself"
        low, high = chance.get(name, (0, 0.2 if name == "bfcl" else 0))
        assert low <= rate(environment, lambda item: "Yes" + IM_END) <= high, f"{name}: always Yes"


def test_items_do_not_depend_on_what_was_asked_before(quick: dict[str, Environment]) -> None:
    for name, environment in quick.items():
        few = range(min(6, environment.size("heldout")))
        forth = [environment.item(1, "heldout", index) for index in few]
        back = [environment.item(1, "heldout", index) for index in reversed(few)][::-1]
        assert [(one.key, one.messages, one.gold) for one in forth] == [
            (one.key, one.messages, one.gold) for one in back
        ], name


@pytest.mark.skipif(bool(missing()), reason="no sandbox here")
def test_humaneval_runs_programs(environments: dict[str, Environment]) -> None:
    class Says:
        def __init__(self, says: Callable[[Item], str]) -> None:
            chosen = chosen_items(only, 2, 1)
            self.known = {item.messages[-1]["content"]: says(item) for _, _, item in chosen}

        def replies(self, wanted: Sequence[Wanted], samples: int, temperature: float, seed: int) -> list[list[Reply]]:
            return [[Reply(self.known[one.messages[-1]["content"]], False)] * samples for one in wanted]

    only = {"humaneval": environments["humaneval"]}
    assert only["humaneval"].size("heldout") == 164 and only["humaneval"].size("train") == 0
    for says, wanted in (
        (lambda item: reply_text(item.gold), 1.0),
        (lambda item: f"```python\ndef {item.meta['problem'].entry}(*given):\n    return None\n```{IM_END}", 0.0),
    ):
        found = measure(Says(says), only, items=2, samples=1, max_new_tokens=512, seed=1)
        assert found.scores["tasks/pass_at_1/humaneval"]["value"] == wanted


def test_what_is_not_here_is_said(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bfcl, "find_spec", lambda name: None)
    found, absent = asked_environments(None, [])
    assert {
        "tool_call",
        "coding",
        "swe",
        "knowledge",
        "faithfulness",
        "bfcl",
    } <= absent.keys() and not absent.keys() & found.keys()
    with pytest.raises(StageError, match="bfcl: BFCL's items are not here; pip install --no-deps bfcl-eval"):
        asked_environments(None, ["bfcl"])
    with pytest.raises(StageError, match=r"knowledge: .* name that run's folder with --data"):
        asked_environments(None, ["knowledge"])
    with pytest.raises(StageError, match=r"tool_call: .*no such file"):
        asked_environments(tmp_path, ["tool_call"])
    with pytest.raises(StageError, match=r"no environment flying; there are arithmetic, bfcl, "):
        asked_environments(None, ["flying"])
    assert set(asked_environments(None, ["needles"])[0]) == {"needles"}


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("In 1534", True), ("1534.", True), ("Lumen was founded in 1534 by settlers.", True),
        ("It was founded in 1535", False), ("In 1534 or 1535", False), ("", False), ("settlers", False),
        ("Lumen was founded in 1534. " + "It is a city that has streets and houses. " * 4, False),
    ],
)  # fmt: skip
def test_an_answer_may_stand_in_a_sentence(reply: str, right: bool) -> None:
    assert gives(reply, "1534", "In which year was Lumen founded? Answer in a few words.") is right


def test_faithfulness_is_to_the_text_and_not_to_memory(quick: dict[str, Environment]) -> None:
    environment = quick["faithfulness"]
    chosen = [item for _, _, item in chosen_items({"x": environment}, ITEMS, 1)]
    assert {item.meta["turn"] for item in chosen} == {"as it is", "changed", "silent"}
    known = {item.messages[-1]["content"].splitlines()[-1]: item for _, _, item in chosen_items(
        {"x": quick["knowledge"]}, ITEMS, 1)}  # fmt: skip
    for item in chosen:
        text, _, asked = item.messages[-1]["content"].partition("\n\n")
        truth = next(one.gold["content"] for said, one in known.items() if said.startswith(asked.splitlines()[-1]))
        remembered = environment.score(item, truth + IM_END)
        assert remembered == (item.meta["turn"] == "as it is" or truth == item.gold["content"])
        assert environment.score(item, UNSAID + IM_END) == (item.meta["turn"] == "silent")
        if item.meta["turn"] != "silent":
            assert item.gold["content"] in text
            assert environment.score(item, f"{UNSAID} {item.gold['content']}{IM_END}") == 0, "both at once"
        assert truth in text or item.meta["turn"] != "as it is"
    assert any(item.meta["turn"] == "changed" and item.gold["content"] not in str(known) for item in chosen) is False
    assert not any("Kerpen" in str(item.messages) for item in chosen), "trained on, or not English"


AREA_CALL = ("math_area", {"base": 10, "height": 5})
FILTER_CALL = ("filter_rows", {"where": {"city": "new york"}, "columns": ["Name", "age"], "strict": True})
ONE = row("x", [AREA, FILTER]) | {"ground_truth": [AREA_ANSWER]}
OTHER = row("x", [AREA, FILTER]) | {"ground_truth": [FILTER_ANSWER]}
BOTH = row("x", [AREA, FILTER]) | {"ground_truth": [AREA_ANSWER, FILTER_ANSWER]}


@pytest.mark.parametrize(
    ("due", "made", "right"),
    [
        (ONE, [AREA_CALL], True),
        (ONE, [("math_area", {"base": 10.0, "height": 5, "unit": "Square-Metres"})], True),
        (ONE, [], False),
        (ONE, [AREA_CALL, AREA_CALL], False),
        (ONE, [("math.area", AREA_CALL[1])], False),
        (ONE, [("math_area", {"base": 10})], False),
        (ONE, [("math_area", {"base": 10, "height": "5"})], False),
        (ONE, [("math_area", {"base": 10, "height": 5.0})], False),
        (ONE, [("math_area", {"base": 10, "height": 5, "unit": "inches"})], False),
        (ONE, [("math_area", {"base": 10, "height": 5, "depth": 1})], False),
        (OTHER, [FILTER_CALL], True),
        (OTHER, [("filter_rows", FILTER_CALL[1] | {"where": {"city": "NYC", "year": 2020}})], True),
        (OTHER, [("filter_rows", FILTER_CALL[1] | {"where": {"city": "NYC", "year": 2021}})], False),
        (OTHER, [("filter_rows", FILTER_CALL[1] | {"where": {}})], False),
        (OTHER, [("filter_rows", FILTER_CALL[1] | {"where": {"city": "NYC", "street": "x"}})], False),
        (OTHER, [("filter_rows", FILTER_CALL[1] | {"columns": ["name"]})], False),
        (OTHER, [("filter_rows", FILTER_CALL[1] | {"strict": 1})], False),
        (OTHER, [("filter_rows", {"where": {"city": "NYC"}, "columns": ["name", "age"]})], False),
        (BOTH, [FILTER_CALL, AREA_CALL], True),
        (BOTH, [AREA_CALL, AREA_CALL], False),
    ],
)  # fmt: skip
def test_calls_are_held_against_what_the_data_set_allows(due: Any, made: Any, right: bool) -> None:
    assert bfcl.matches(made, due) is right
    environment = bfcl.Bfcl([due])
    message = {"role": "assistant", "content": "", "tool_calls": [
        {"id": f"functions.{name}:{number}", "function": {"name": name, "arguments": json.dumps(given)}}
        for number, (name, given) in enumerate(made)
    ]}  # fmt: skip
    assert environment.score(environment.item(1, "heldout", 0), reply_text(message)) == right


def test_declarations_become_json_schema(quick: dict[str, Environment]) -> None:
    (_, _, item) = chosen_items({"bfcl": quick["bfcl"]}, 2, 1)[1]
    area, filtered = (tool["function"] for tool in item.tools)
    assert area["name"] == "math_area" and area["parameters"]["type"] == "object"
    assert area["parameters"]["properties"]["base"] == {"type": "number", "description": "b"}
    where = filtered["parameters"]["properties"]["where"]
    assert where["type"] == "object" and where["properties"]["year"] == {}


def test_an_item_that_its_own_answers_fail_is_left_out(tmp_path: Any) -> None:
    data = write_bfcl(tmp_path) / "bfcl_eval" / "data"
    before = len(bfcl.read_rows(data))
    odd = {"math.area": AREA_ANSWER["math.area"] | {"depth": [1]}}
    answers = [{"id": f"multiple_{number}", "ground_truth": [given]} for number, given in enumerate([AREA_ANSWER, odd])]
    write_lines(data / "possible_answer" / "BFCL_v4_multiple.json", answers)
    assert len(bfcl.read_rows(data)) == before - 1


def test_a_torn_data_set_is_said(tmp_path: Any) -> None:
    data = write_bfcl(tmp_path) / "bfcl_eval" / "data"
    (data / "possible_answer" / "BFCL_v4_multiple.json").write_text('{"id": "x", "ground_truth": []}\n')
    with pytest.raises(StorageError, match=r"multiple\.json: no answer to 'multiple_0'"):
        bfcl.read_rows(data)
    (data / "BFCL_v4_multiple.json").unlink()
    with pytest.raises(StorageError, match="no file of category multiple; install bfcl-eval again"):
        bfcl.read_rows(data)
