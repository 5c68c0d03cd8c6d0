"""The page says what the figures say, for better and for worse, and equal runs give equal pages."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpus_fixture import corpus

from k2core.planning.jobs import read_jobs
from k2core.planning.k2 import reported
from k2core.report.benchmark_table import table
from k2core.report.glance import cost
from k2core.report.long_context import copy_gain, loss_by_position, needles
from k2core.report.page import headline, render
from k2core.report.results import Results, read_results
from k2core.storage import StorageError

GRAPH = {"sft": [], "rl": ["sft"], "export": ["rl"], "report": ["rl"]}
COST = cost(
    {"sft": {"train/tokens_seen": 10.0}}, read_jobs(Path("recipes/laptop.yaml")), reported(Path("recipes/k2.yaml"))
)

PROGRAMS = {
    "problems": 160.0, "repairs": 3.0, "packages": 2.0, "problems/humaneval": 160.0, "problems_refused/humaneval": 4.0,
    "repairs/wasabi": 3.0, "tried/wasabi": 9.0, "repairs/colorama": 0.0, "tried/colorama": 1.0,
    "why/proved": 3.0, "why/no_test_notices": 6.0, "why/a_wrong_mend_passes": 1.0,
}  # fmt: skip
TASK = {
    "id": "swe/wasabi/util.py:12", "issue": "test_a fails.\nE   assert <1> == 2", "function": "wrap", "line": 12,
    "reason": "off by one at a boundary", "before": "    if a < b:", "after": "    if a <= b:", "failing": ["t::a"],
    "passing": ["t::a", "t::b"], "tests": ["wasabi/tests/test_util.py"],
}  # fmt: skip


def results() -> Results:
    def card(schema: float, passed: float) -> dict[str, dict[str, float]]:
        return {
            "heldout/bits_per_byte": {"value": 2.0},
            "tool_calls/valid_when_due": {"value": schema, "low": schema - 0.04, "high": schema + 0.04},
            "dialogues/greedy": {"value": schema, "low": 0.0, "high": 1.0},
            "dialogues/greedy/chain": {"value": 0.123, "low": 0.0, "high": 1.0},
            "dialogues/answer": {"value": schema, "low": 0.0, "high": 1.0},
            "tasks/pass_rate": {"value": passed, "low": passed - 0.04, "high": passed + 0.04},
            "tasks/pass_rate/sort": {"value": passed, "low": passed - 0.04, "high": passed + 0.04},
        }

    dialogue = {
        "id": "t1/oracle/0",
        "agent": "oracle",
        "messages": [
            {"role": "user", "content": "<b>Add</b> milk"},
            {"role": "assistant", "tool_calls": [{"function": {"name": "add_item", "arguments": '{"name": "milk"}'}}]},
        ],
        "verdict": {"passed": True, "checks": {"state": True}},
    }
    sample = {"environment": "sort", "prompt": "sort 2 1", "completion": "1 2", "score": 1.0}
    played = {
        "environment": "dialogues", "prompt": "Add <i>eggs</i>", "task": "heldout-3", "kind": "single", "score": 0.0,
        "messages": [*dialogue["messages"], {"role": "assistant", "content": "x", "errors": ["no <end>"]}],
        "verdict": {"passed": False, "score": 0.5, "checks": {"state": True, "format": False}},
    }  # fmt: skip
    phases = {
        f"pretrain-{phase}": {"heldout/bits_per_byte": bits, "train/tokens_seen": seen}
        for phase, bits, seen in [("decay", 2.0, 30.0), ("stable", 2.5, 20.0)]
    }
    curve = {"step": [1.0, 2.0], "train/loss": [3.0, 2.0], "train/lr": [1.0, None], "train/tokens_seen": [10.0, 20.0]}
    return Results(
        figures={**phases, "sft": {"loss_before": 3.0, "loss_after": 1.0}, "programs": PROGRAMS},
        curves={"pretrain-stable": {**curve, "val/bpb": [None, 2.5]}, "sft": curve},
        funnel=[
            {"step": "all", "documents": 10, "characters": 1000},
            {"step": "exact", "documents": 7, "characters": 700},
        ],
        verdicts=[
            {
                "source_text": "In 1900",
                "rewrite": "In 1900.",
                "accepted": True,
                "reason": "",
                "style": "plain",
                "x": 0.5,
            },
            {
                "source_text": "In 1900",
                "rewrite": "In 1901.",
                "accepted": False,
                "reason": "numbers",
                "style": "plain",
                "x": 0.1,
            },
        ],
        accepted=[dialogue],
        rejected=[{**dialogue, "verdict": {"passed": False, "checks": {"state": False, "brief": True}}}],
        scorecards={"base": card(0.0, 0.1), "sft": card(0.9, 0.5), "rl": card(0.9, 0.6)},
        items={},
        samples={name: [sample, played] for name in ("base", "sft", "rl")},
        tools=[],
        critic=[
            {"request": "Sort 2 1", "better": "1 2", "worse": "2 <1>", "source": "gym/sort", "chance": chance}
            for chance in (0.75, 0.25)
        ],
        rollouts=[{
            "environment": "sort", "prompt": "sort <3> 1",
            "before": [{"text": "1 <3>", "reward": 0.0}] * 2, "after": [{"text": "1 3", "reward": 1.0}] * 2,
        }],
        repairs=[TASK],
    )  # fmt: skip


def long_context_figures(models: tuple[str, ...]) -> dict[str, float]:
    figures = {f"samples/{name}": 4.0 for name in ("windows", "needles_a_cell", "passages", "needle_chance")}
    for number, model in enumerate(models):
        for bucket in ("0-512", "512-1024"):
            figures[f"{model}/nats_per_token/position_{bucket}"] = 4.0
            if model != "before":
                name = f"{model}/nats_saved/position_{bucket}"
                figures |= {name: 0.1 * number, f"{name}/low": 0.0, f"{name}/high": 0.5}
        for length in (1024, 512):
            figures |= {f"{model}/needle/length_{length}": 0.5, f"{model}/needle/length_{length}/low": 0.4}
            figures |= {f"{model}/needle/length_{length}/depth_{depth}": depth / 100 for depth in (0, 50, 100)}
            name = f"{model}/copy_gain/distance_{length - 64}"
            figures |= {name: 0.2, f"{name}/low": 0.1, f"{name}/high": 0.4}
    return figures


def with_long_context(*models: str) -> Results:
    made = results()
    made.figures["extend_context"] = {"heldout/bits_per_byte": 2.0, **long_context_figures(models)}
    return made


def test_long_context_is_shown_for_the_models_there_are(tmp_path: Path) -> None:
    assert [make(results()) for make in (loss_by_position, needles, copy_gain)] == [None] * 3
    for models in (("before", "yarn", "after"), ("before", "yarn", "after", "without_yarn")):
        shown = with_long_context(*models)
        lines, maps, bars = loss_by_position(shown), needles(shown), copy_gain(shown)
        assert len(lines.data) == 2 * len(models) - 1 and len(maps.data) == len(bars.data) == len(models)
        assert list(lines.data[0].x) == ["0-512", "512-1024"]
        assert [row[0] for row in maps.data[0].z] == [0.0, 0.5, 1.0]
        assert [label.split("<br>")[0] for label in maps.data[0].x] == ["512", "1,024"]
        assert list(bars.data[0].x) == ["448", "960"] and bars.data[0].error_y.array == pytest.approx((0.2, 0.2))
    page = render(with_long_context("before", "after"), corpus(tmp_path), headline(results(), gains()), 3, GRAPH, COST)
    assert page.count('id="picture-') == 11 and '<h2 id="Long context">' in page


def gains(sft: float = 0.9, rl: float = 0.1) -> dict[str, dict[str, float]]:
    return {
        name: {"value": value, "low": value - 0.06, "high": value + 0.06}
        for name, value in (("tool_calls/valid_when_due", sft), ("tasks/pass_rate", rl))
    }


def test_claims_hold_only_where_the_figures_say_so() -> None:
    assert [row["verdict"] for row in headline(results(), gains())] == ["holds"] * 3
    worse = headline(results(), gains(sft=0.0, rl=0.05))
    assert [row["verdict"] for row in worse] == ["holds", "does not hold", "within noise"]
    assert headline(results(), gains())[1]["values"] == [0.0, 0.9]


def test_the_page_is_complete_escaped_and_reproducible(tmp_path: Path) -> None:
    made = corpus(tmp_path)
    page = render(results(), made, headline(results(), gains()), 3, GRAPH, COST)
    assert page == render(results(), made, headline(results(), gains()), 3, GRAPH, COST)
    body = page[page.index("<body>") :]
    for part in (
        "rejected: numbers",
        "In 1901.",
        "&lt;b&gt;Add&lt;/b&gt; milk",
        "add_item({",
        "1 2",
        "state 1",
        "CC0 &lt;x&gt; (17)",
        "ends &lt;early&gt;",
        "1,234,567",
        "are &lt;many&gt;",
        "not in the source",
        'href="rewrites.html"',
        "✗ rl</span>",
        "Add &lt;i&gt;eggs&lt;/i&gt;",
        "malformed: no &lt;end&gt;",
        "✗ format",
        "<td>chain</td>",
        "0.12 → 0.12 → 0.12 <small>(0.00 to 1.00)",
        "2 &lt;1&gt;</td>",
        "✗</span> 0.250",
        "sort &lt;3&gt; 1",
        "before 0 of 2",
        "after 2 of 2",
        "<b>0.600</b> <small>(0.560 to 0.640)",
        '<h3 id="programs">',
        "assert &lt;1&gt; == 2",
    ):
        assert part in body, part
    assert "<b>Add" not in body and "dialogues/greedy/chain" not in body and "<td>dialogues/greedy</td>" in body
    assert "gain on the same items +0.900 (95%: +0.840 to +0.960)" in body
    assert "does not hold" not in body
    assert "does not hold" in render(results(), made, headline(results(), gains(rl=-0.1)), 3, GRAPH, COST)
    assert body.count('id="picture-') == 8


def test_the_best_of_each_benchmark_is_marked_and_a_tie_is_not() -> None:
    def card(value: float, bits: float) -> dict[str, dict[str, float]]:
        return {
            "tasks/pass_rate": {"value": value}, "tasks/pass_rate/sort_numbers": {"value": value},
            "heldout/bits_per_byte": {"value": 9.0}, "heldout/bits_per_byte/web": {"value": bits},
            "dialogues/greedy": {"value": 0.5}, "dialogues/greedy/chain": {"value": value},
            "richer_dialogues/greedy": {"value": value}, "tool_calls/cut_off": {"value": value},
        }  # fmt: skip

    groups = table({"base": card(0.1, 1.5), "sft": card(0.6, 2.0), "rl": card(0.6, 2.5)})
    rows = [row for group in groups for row in group["rows"]]
    assert {(row["name"], tuple(cell["best"] for cell in row["cells"])) for row in rows} == {
        ("sort numbers", (False, True, True)), ("web", (True, False, False)),
        ("dialogues", (False, False, False)), ("richer dialogues", (False, True, True)),
    }  # fmt: skip


def test_a_missing_output_is_named(tmp_path: Path) -> None:
    for name in ("figures", "plots"):
        (tmp_path / name).mkdir()
    with pytest.raises(StorageError, match=r"funnel\.json"):
        read_results(tmp_path / "figures", tmp_path / "plots", *[tmp_path] * 8)
    (tmp_path / "plots" / "sft.csv").write_text("step,train/loss\n")
    with pytest.raises(StorageError, match=r"sft\.csv: a plot without rows"):
        read_results(tmp_path / "figures", tmp_path / "plots", *[tmp_path] * 8)
