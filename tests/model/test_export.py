"""The export stage: what it writes works in transformers, and what cannot work is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from corpus_fixture import FUNNEL, write_corpus

from k2core.chat.tokenizer import Tokenizer
from k2core.machine import Compute
from k2core.model.files import save_model
from k2core.report.data_card import STAGES
from k2core.stage import Job, StageError
from k2core.storage import write_json
from stages.export import Params, run

VOCABULARY = 300
COMPUTE = Compute(threads=1, seed=0, device="cpu", backend="auto", precision="fp32")


@pytest.fixture
def export(build, tmp_path):
    """A model, a tokenizer and a scorecard in `tmp_path`; returns a function that runs the stage on them."""
    save_model(build(yarn=True, vocab_size=VOCABULARY), tmp_path / "model")
    text = "The quick brown fox jumps over the lazy dog, while seven wizards vex a jolly queen in a box. "
    Tokenizer.train([text * 3], VOCABULARY).save(tmp_path / "tokenizer")
    (tmp_path / "scorecard.json").write_text(json.dumps({"tool_calls/exact": 0.875, "dialogues/greedy/chain": 0.5}))
    of_the_run = write_corpus(tmp_path / "run")
    write_json(of_the_run["curated"] / "funnel.json", FUNNEL)
    figures = {stage: {} for stage in STAGES} | {"curate": {"heldout": 3.0, "searched/tool_call": 7.0}}
    figures["trajectories"] = {"accepted": 9.0, "rejected": 3.0, "accepted/oracle": 8.0, "accepted/llm": 1.0}
    for stage, values in figures.items():
        write_json(tmp_path / "metrics" / f"{stage}.json", values)

    def make(out: str, check_tokens: int = 200) -> tuple[Path, dict[str, float]]:
        params = Params(name="toy", shard_megabytes=5000, check_sequences=2, check_tokens=check_tokens)
        paths = {"model": tmp_path / "model", "tokenizer": tmp_path / "tokenizer"}
        paths |= {"scorecard": tmp_path / "scorecard.json", "out": tmp_path / out, "figures": tmp_path / "metrics"}
        paths |= {"sources": of_the_run["documents"] / "CARD.md", "mixture": of_the_run["mixture"]}
        paths |= {"funnel": of_the_run["curated"] / "funnel.json"}
        return tmp_path / out, run(params, COMPUTE, **paths, job=Job("export", tmp_path, None))

    return make


def test_export_loads_generates_and_repeats(export):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, figures = export("first")
    assert figures["export/max_logit_difference"] < 1e-4
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("the lazy dog", return_tensors="pt")
    torch.manual_seed(0)
    assert model.generate(**ids, max_new_tokens=5).shape[1] > ids["input_ids"].shape[1]
    assert model.generation_config.eos_token_id == [tokenizer.convert_tokens_to_ids(t) for t in ("<|im_end|>", "[EOS]")]
    card = (folder / "README.md").read_text()
    assert "# toy" in card and "| `tool_calls/exact` | 0.875 |" in card.partition("<details>")[0]
    assert "| `dialogues/greedy/chain` | 0.5 |" in card.partition("<details>")[2]
    assert "- Of the calls that are due, 88% are exact" in card.partition("## Limits")[2].partition("## Lineage")[0]
    data = (folder / "DATA.md").read_text()
    for part in (
        "# Data card of toy", "CC0 <x> (17)", "| exact duplicate | 3 | 300 |", "7 of 10 documents are left; 3 of them",
        "7 tool call, 0 held-out documents", "| stable | 1,235,567 | 99.9% | 0.1% |", "9 of 12 (8 played by a program",
    ):  # fmt: skip
        assert part in data, part
    again, _ = export("second")
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == {f.name: f.read_bytes() for f in again.iterdir()}


def test_what_cannot_be_exported_is_said_in_a_sentence(export, build, tmp_path):
    with pytest.raises(StageError, match="check_tokens is 999, more than the model's context of 256"):
        export("out", check_tokens=999)
    save_model(build(vocab_size=96), tmp_path / "model")
    with pytest.raises(StageError, match=f"tokenizer has {VOCABULARY} entries but .*model has 96"):
        export("out")
    plain = build(
        vocab_size=VOCABULARY, attention="mha", q_lora_rank=None, kv_lora_rank=None, max_position_embeddings=256
    )
    save_model(plain, tmp_path / "model")
    with pytest.raises(StageError, match="deepseek_v3 has only multi-head latent attention"):
        export("out")


def test_a_wrong_conversion_is_noticed(export, monkeypatch):
    from k2core.formats import huggingface

    right = huggingface.to_huggingface

    def swapped(state):
        result = right(state)
        gate, up = (f"model.layers.1.mlp.experts.0.{name}_proj.weight" for name in ("gate", "up"))
        return result | {gate: result[up], up: result[gate]}

    monkeypatch.setattr(huggingface, "to_huggingface", swapped)
    with pytest.raises(StageError, match="logits in transformers differ"):
        export("out")
