"""The per-head and per-expert files: what is in them, and that a killed training writes the same bytes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import torch
from test_trainer import MODEL, OPTIMIZER, STEPS, Killed, Source, run

from k2core.model.config import ModelConfig
from k2core.model.transformer import Transformer
from k2core.optim.muonclip import MuonClip
from k2core.training.per_head_log import Detail

DENSE = {"first_k_dense_replace": 2}
MHA = {"attention": "mha", "q_lora_rank": None, "kv_lora_rank": None}


def build(**changes) -> tuple[Transformer, MuonClip]:
    torch.manual_seed(0)
    model = Transformer(ModelConfig.model_validate(MODEL.model_dump() | changes))
    return model, MuonClip(model, OPTIMIZER)


def table(text: str) -> list[dict[str, float]]:
    return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(io.StringIO(text))]


def test_rows_are_extremes_and_shares_of_the_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against what the optimiser had after each step."""
    model, optimizer = build()
    steps, inner = [], optimizer.step

    def step(*arguments: float):
        figures = inner(*arguments)
        bias = model.routers()[0].e_score_correction_bias.clone()
        steps.append((optimizer.max_logit_LH, optimizer.gamma_LH, optimizer.load_LE, bias))
        return figures

    monkeypatch.setattr(optimizer, "step", step)
    result = run(tmp_path, Source(), model, optimizer)
    heads, experts = table(result.detail["attention.csv"]), table(result.detail["experts.csv"])
    assert list(heads[0]) == ["step", "layer", "head", "max_logit", "gamma"]
    assert list(experts[0]) == ["step", "layer", "expert", "load", "bias"]
    assert len(heads) == 4 * 2 * 2 and len(experts) == 4 * 4  # rows of the plot × layers × heads or experts
    for row in heads:
        seen = steps[int((row["step"] - 1) // 3 * 3) : int(row["step"])]
        logits, gammas = (torch.stack([s[k] for s in seen])[:, int(row["layer"]), int(row["head"])] for k in (0, 1))
        assert row["max_logit"] == pytest.approx(float(logits.max()), rel=1e-5)
        assert row["gamma"] == pytest.approx(float(gammas.min()), rel=1e-5)
    for row in experts:
        seen, expert = steps[int((row["step"] - 1) // 3 * 3) : int(row["step"])], int(row["expert"])
        load = sum(s[2][0] for s in seen)
        assert row["layer"] == 1 and row["load"] == pytest.approx(float(load[expert] / load.sum()), rel=1e-5)
        assert row["bias"] == pytest.approx(float(seen[-1][3][expert]), rel=1e-5, abs=1e-9)
    assert min(row["gamma"] for row in heads) < 1 and {row["step"] for row in heads} == {3, 6, 9, STEPS}


@pytest.mark.parametrize("changes", [{}, DENSE, MHA, MHA | DENSE], ids=["mla", "dense", "mha", "mha-dense"])
def test_a_killed_training_of_any_variant_ends_in_the_same_bytes(tmp_path: Path, changes) -> None:
    """Killed between a checkpoint (every 4 steps) and a row (every 3)."""
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    wanted = run(tmp_path / "whole", Source(), *build(**changes))
    assert wanted.rows[-1]["train/loss"] < wanted.rows[0]["train/loss"]
    for kill_at in (4, 9):
        with pytest.raises(Killed):
            run(tmp_path / "killed", Source(kill_at), *build(**changes))
    assert run(tmp_path / "killed", Source(), *build(**changes)) == wanted
    assert ("experts.csv" in wanted.detail) == (changes.get("first_k_dense_replace") is None)
    assert wanted.detail["attention.csv"].count("\n") == 1 + 4 * 2 * 2


def test_largest_logits_that_no_backend_knew_leave_cells_empty() -> None:
    """In a checkpoint, too, whose JSON has no infinity."""
    model, _ = build()
    unknown = torch.full((2, 2), -torch.inf)
    whole, resumed = Detail(), Detail()
    seen = [unknown, unknown.where(torch.eye(2) == 0, torch.tensor(7.0))]
    for number, logits in enumerate(seen):
        whole.add({"max_logit": logits, "gamma": torch.ones(2, 2), "load": torch.ones(1, 4), "bias": torch.zeros(1, 4)})
        if number == 0:
            resumed.restore(json.loads(json.dumps(whole.state(), allow_nan=False)))
    resumed.add({"max_logit": seen[1], "gamma": torch.ones(2, 2), "load": torch.ones(1, 4), "bias": torch.zeros(1, 4)})
    for detail in (whole, resumed):
        detail.close(3, model)
        assert detail.lines["attention.csv"][1:] == ["3,0,0,7,1", "3,0,1,,1", "3,1,0,,1", "3,1,1,7,1"]
