"""The simulator: state between calls, determinism, controlled failures, and no crash whatever the call."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2core.agentic.domains.taxonomy import domains
from k2core.agentic.tools.evolve import plain_tools
from k2core.agentic.tools.simulator import UNAVAILABLE, Simulator, state_hash
from k2core.chat.parser import ToolCall

TOOLS = {tool.name: tool for tool in plain_tools(domains()["accounts"])}
STATE = {"account": {"Amy Ford": {"balance": 100, "currency": "EUR", "limit": 500, "status": "active"}}}


def call(name: str, **arguments: object) -> ToolCall:
    return ToolCall(f"functions.{name}:0", name, json.dumps(arguments))


def world(**options: object) -> Simulator:
    return Simulator(TOOLS, STATE, **options)  # type: ignore[arg-type]


def test_the_state_lasts_from_call_to_call() -> None:
    simulator = world()
    run: Callable[..., dict] = lambda name, **arguments: simulator.execute(call(name, **arguments)).result  # noqa: E731
    assert run("deposit_account", owner="Amy Ford", amount=50) == {
        "result": "updated", "account": "Amy Ford", "balance": 150}  # fmt: skip
    assert run("get_account", owner="Amy Ford")["balance"] == 150
    assert run("add_account", owner="Bo Li", balance=7, currency="USD") == {"result": "created", "account": "Bo Li"}
    assert run("add_account", owner="Bo Li", balance=8, currency="USD")["error"] == "exists already"
    assert run("get_account", owner="Bo Li") == {
        "account": "Bo Li", "balance": 7, "currency": "USD", "limit": 500, "status": "active"}  # fmt: skip
    assert run("find_accounts_by_currency", currency="USD") == {"found": ["Bo Li"]}
    assert run("freeze_account", owner="Bo Li")["status"] == "frozen"
    assert run("withdraw_account", owner="Bo Li", amount=8)["error"] == "balance would be -1"
    assert run("update_account", owner="Bo Li", limit=900)["limit"] == 900
    assert run("delete_account", owner="Bo Li")["result"] == "deleted"
    assert run("get_account", owner="Bo Li") == {"error": "not found", "account": "Bo Li"}
    assert simulator.state["account"]["Amy Ford"]["balance"] == 150
    assert STATE["account"]["Amy Ford"]["balance"] == 100
    # After the deposit, the new account, its freezing, its limit; its deletion leads back to the first.
    assert len({outcome.state for outcome in simulator.outcomes}) == 4
    assert simulator.outcomes[-1].state == simulator.outcomes[0].state


@pytest.mark.parametrize(
    "bad",
    [
        call("close_account", owner="Amy Ford"),
        call("get_account"),
        call("get_account", owner=3),
        call("add_account", owner="Bo Li", balance="7", currency="USD"),
        ToolCall("functions.get_account:0", "get_account", '{"owner": '),
        ToolCall("functions.get_account:0", "get_account", "[" * 100_000),
        ToolCall("functions.get_account:0", "get_account", "[]"),
    ],
)
def test_malformed_calls_come_back_as_an_error_and_change_nothing(bad: ToolCall) -> None:
    simulator = world()
    outcome = simulator.execute(bad)
    assert not outcome.valid and not outcome.ok and "error" in json.loads(outcome.text)
    assert outcome.state == state_hash(STATE)


names = st.sampled_from([*TOOLS, "nothing"])
arguments = st.dictionaries(
    st.sampled_from(["owner", "balance", "currency", "limit", "amount", "x"]),
    st.sampled_from(["Amy Ford", "Bo Li", "EUR"]) | st.integers(-9, 9) | st.none() | st.floats(allow_nan=False),
)  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(names, arguments), max_size=5))
def test_any_calls_run_and_repeat(made: list[tuple[str, dict]]) -> None:
    def play() -> list[tuple[str, str]]:
        simulator = world(seed="s", failure_rate=0.3)
        outcomes = [simulator.execute(call(name, **given_)) for name, given_ in made]
        return [(outcome.text, outcome.state) for outcome in outcomes]

    assert play() == play()


def test_failures_are_a_controlled_share_leave_the_state_and_pass() -> None:
    failed = 0
    for seed in range(400):
        simulator = world(seed=str(seed), failure_rate=0.25)
        outcome = simulator.execute(call("deposit_account", owner="Amy Ford", amount=1))
        if outcome.result == {"error": UNAVAILABLE}:
            failed += 1
            assert outcome.valid and not outcome.ok and outcome.state == state_hash(STATE)
    assert 70 <= failed <= 130
    assert all(world(seed=str(i)).execute(call("get_account", owner="Amy Ford")).ok for i in range(20))


def test_the_hash_sees_the_content_alone() -> None:
    assert state_hash({"a": {"k": {"x": 1, "y": 2}}, "b": {}}) == state_hash({"a": {"k": {"y": 2.0, "x": 1}}})
    assert state_hash({"a": {"k": {"x": 1}}}) != state_hash({"a": {"k": {"x": 2}}})
