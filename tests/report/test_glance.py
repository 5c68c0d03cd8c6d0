"""The run at a glance: the graph of `dvc.yaml`, its picture, answers of each environment, and what trainings cost."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from workspace import ROOT

from k2core.chat.template import reply_text
from k2core.figures.graph import drawn
from k2core.model.counts import training_flops
from k2core.planning.jobs import read_jobs
from k2core.planning.k2 import reported
from k2core.report.glance import cost, read_graph, some_answers
from k2core.report.templates import shown

SVG = "{http://www.w3.org/2000/svg}"


def test_the_graph_is_that_of_dvc(tmp_path: Path) -> None:
    graph = read_graph(ROOT / "dvc.yaml")
    assert graph["pretrain@decay"] == ["plan_mixture", "pretrain@stable", "tokenize"]
    assert {"evaluate@base", "evaluate@sft", "evaluate@rl", "ingest"} <= set(graph["report"])
    assert "rl" in graph["evaluate@rl"] and "sft" not in graph["evaluate@rl"]
    toy = read_graph(ROOT / "tests" / "toy" / "dvc.yaml")
    assert toy == {"source": [], "branch@left": ["source"], "branch@right": ["source"],
                   "join": ["branch@left", "branch@right"]}  # fmt: skip


def test_the_picture_has_a_box_for_each_stage_and_no_arrow_that_follows_from_others() -> None:
    graph = {"a": [], "b": ["a"], "c": ["a", "b"], "<d>": ["c"]}
    picture = ElementTree.fromstring(drawn(graph, {"b": "3 s"}))
    boxes = {
        box.get("data-stage"): [text.text or "" for text in box.iter(f"{SVG}text")] for box in picture.iter(f"{SVG}g")
    }
    assert boxes == {"a": ["a", ""], "b": ["b", "3 s"], "c": ["c", ""], "<d>": ["<d>", ""]}
    assert len(list(picture.iter(f"{SVG}path"))) == 3
    heights = [float(box.find(f"{SVG}rect").get("y")) for box in picture.iter(f"{SVG}g")]
    assert heights == sorted(set(heights))
    assert ElementTree.fromstring(drawn({}, {})) is not None


def test_answers_are_of_different_environments() -> None:
    rows = [{"environment": name, "prompt": f"{name}{n}"} for name in "abc" for n in range(9)]
    assert [row["prompt"] for row in some_answers(rows)] == ["a0", "b0", "c0", "a1", "b1"]
    assert some_answers([]) == []


def test_answers_are_shown_without_control_tokens_unless_they_break_the_format() -> None:
    call = {"id": "functions.remove:0", "function": {"name": "remove", "arguments": '{"name": "x"}'}}
    text = reply_text({"role": "assistant", "content": "", "tool_calls": [call]})
    assert shown(text) == 'remove {"name": "x"}' and shown("4<|im_end|>") == "4" and shown("plain") == "plain"
    broken = text.replace("functions.remove:0", "remove")
    assert shown(broken) == broken


LAPTOP, K2 = read_jobs(ROOT / "recipes" / "laptop.yaml"), reported(ROOT / "recipes" / "k2.yaml")


def test_cost_counts_each_token_once() -> None:
    seen = {"pretrain-stable": 100.0, "pretrain-decay": 150.0, "extend_context": 160.0, "sft": 20.0}
    found = cost({stage: {"train/tokens_seen": tokens} for stage, tokens in seen.items()}, LAPTOP, K2)
    tokens = {"pretrain-stable": 100.0, "pretrain-decay": 50.0, "extend_context": 10.0, "sft": 20.0}
    assert {row["stage"]: row["tokens"] for row in found["rows"]} == tokens
    contexts = {"pretrain-stable": 256, "pretrain-decay": 256, "extend_context": 1024, "sft": 512}
    flops = sum(count * training_flops(LAPTOP.model, contexts[stage]) for stage, count in tokens.items())
    assert found["flops"] == pytest.approx(flops) and found["ratio"] == found["k2"]["flops"] / found["flops"]
    assert cost({}, LAPTOP, K2)["ratio"] == 0


def test_k2s_cost_is_the_planners() -> None:
    found = cost({}, LAPTOP, K2)
    assert found["k2"]["tokens"] == pytest.approx(15.96e12, rel=1e-3)
    assert found["k2"]["flops"] == pytest.approx(6 * 32.6e9 * 15.96e12, rel=0.06), "and attention"
    assert found["k2"]["hours"] == K2.hours * 256 == pytest.approx(sum(row["hours"] for row in found["k2_rows"]))
    assert found["rate"] == pytest.approx(0.19 * 989e12, rel=0.02), "the pipeline's bubble is small"
