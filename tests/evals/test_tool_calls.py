"""Schema accuracy as K2-Vendor-Verifier counts it: one response at a time."""

import pytest

from k2core.evals.benchmarks.tool_calls import call_scores, trigger_scores
from k2core.evals.tool_calls import check_calls

TOOLS = [
    {"type": "function", "function": {"name": name, "description": "", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}
    for name in ("weather", "time")
]  # fmt: skip
GOLD = [{"name": "weather", "arguments": {"city": "Bonn"}}]


def calls(*each):
    inner = "".join(
        f"<|tool_call_begin|>functions.{name}:{i}<|tool_call_argument_begin|>{arguments}<|tool_call_end|>"
        for i, (name, arguments) in enumerate(each)
    )
    return f"<|tool_calls_section_begin|>{inner}<|tool_calls_section_end|><|im_end|>"


RIGHT = calls(("weather", '{"city": "Bonn"}'))


@pytest.mark.parametrize(
    ("text", "called", "valid", "exact"),
    [
        (RIGHT, True, True, True),
        (calls(("weather", ' {"city":"Bonn"} ')), True, True, True),
        (calls(("weather", '{"city": "Rome"}')), True, True, False),
        (calls(("weather", '{"city": "Bonn"}'), ("time", '{"city": "Bonn"}')), True, True, False),
        (calls(("weather", '{"city": "Bonn"}'), ("time", "{}")), True, False, False),  # one bad call fails it all
        (calls(("weather", "{}")), True, False, False),
        (calls(("weather", '{"city": 3}')), True, False, False),
        (calls(("weather", "city")), True, False, False),
        (calls(("sing", '{"city": "Bonn"}')), True, False, False),
        (RIGHT.removesuffix("<|tool_calls_section_end|><|im_end|>"), True, False, False),
        ("<|tool_calls_section_begin|>", True, False, False),
        ("It rains.<|im_end|>", False, False, False),
        ("", False, False, False),
    ],
)
def test_cases(text, called, valid, exact):
    check = check_calls(text, TOOLS, GOLD)
    assert (check.due, check.called, check.valid, check.exact) == (True, called, valid, exact)


def test_two_calls_in_any_order():
    gold = [*GOLD, {"name": "time", "arguments": {"city": "Bonn"}}]
    assert check_calls(calls(("time", '{"city": "Bonn"}'), ("weather", '{"city": "Bonn"}')), TOOLS, gold).exact


def test_scores():
    silent, right = check_calls("No.", TOOLS, GOLD), check_calls(RIGHT, TOOLS, GOLD)
    needless, refused = check_calls(RIGHT, TOOLS, []), check_calls("No.", TOOLS, [])
    broken = check_calls(calls(("weather", "{}")), TOOLS, GOLD)
    scores = call_scores([silent, right, needless, refused, broken])
    assert scores["tool_calls/schema_accuracy"]["value"] == pytest.approx(2 / 3)
    assert scores["tool_calls/trigger_accuracy"]["value"] == pytest.approx(3 / 5)
    assert scores["tool_calls/valid_when_due"]["value"] == pytest.approx(1 / 3)
    assert scores["tool_calls/exact"]["value"] == pytest.approx(1 / 3)
    assert call_scores([silent])["tool_calls/schema_accuracy"] == {"value": 0.0, "low": 0.0, "high": 1.0}


def test_trigger_scores_are_those_of_the_vendor_verifier():
    silent, right = check_calls("No.", TOOLS, GOLD), check_calls(RIGHT, TOOLS, GOLD)
    needless, refused = check_calls(RIGHT, TOOLS, []), check_calls("No.", TOOLS, [])
    wrong = check_calls(calls(("weather", "{}")), TOOLS, GOLD)  # called when due: the trigger is right
    scores = trigger_scores([silent, right, right, needless, refused, refused, wrong])
    precision, recall = 3 / 4, 3 / 4
    assert scores["tool_calls/trigger_precision"]["value"] == precision
    assert scores["tool_calls/trigger_recall"]["value"] == recall
    assert scores["tool_calls/trigger_f1"]["value"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert scores["tool_calls/called_when_none_due"]["value"] == pytest.approx(1 / 3)
    assert all(score["low"] <= score["value"] <= score["high"] for score in scores.values())
    assert trigger_scores([right, refused])["tool_calls/trigger_f1"]["high"] == 1.0
    assert trigger_scores([silent])["tool_calls/trigger_f1"] == {
        "value": 0.0,
        "low": 0.0,
        "high": pytest.approx(0.88, abs=0.01),
    }
