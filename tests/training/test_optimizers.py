"""An optimiser is one file: a recipe names it, and every training takes it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer import MODEL, OPTIMIZER, Killed, Source, run
from workspace import ROOT

from k2core.model.transformer import Transformer
from k2core.optim import kinds
from k2core.optim.optimizer import Optimizer, OptimizerConfig
from k2core.recipe import RecipeError, validate
from k2core.training.optimizer_state import load_optimizer, save_optimizer


@pytest.fixture
def descent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OptimizerConfig:
    """The section of a recipe that names an optimiser whose file was just added."""
    folder = tmp_path / "kinds"
    folder.mkdir()
    shutil.copyfile(ROOT / "tests" / "descent.py", folder / "descent.py")
    monkeypatch.setattr(kinds, "__path__", [*kinds.__path__, str(folder)])
    return validate(OptimizerConfig, {"kind": "descent", "lr": 0.5}, "optimizer")


def built(config: OptimizerConfig) -> tuple[Transformer, Optimizer]:
    torch.manual_seed(0)
    model = Transformer(MODEL)
    return model, config.build(model)


def test_it_trains_is_killed_and_goes_on(descent: OptimizerConfig, tmp_path: Path) -> None:
    model, optimizer = built(descent.with_rates(0.3, 0.1))
    assert optimizer.lr == 0.3
    result = run(tmp_path / "whole", Source(), model, optimizer)
    assert result.rows[-1]["train/loss"] < result.rows[0]["train/loss"]
    assert set(result.figures()) == {"train/loss", "train/tokens_seen", "qk_clip/heads_clipped", "spike/skipped"}
    assert result.detail == {}, "it looks at no head"
    with pytest.raises(Killed):
        run(tmp_path / "killed", Source(kill_at=7), *built(descent.with_rates(0.3, 0.1)))
    again, optimizer = built(descent.with_rates(0.3, 0.1))
    assert run(tmp_path / "killed", Source(), again, optimizer) == result
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    save_optimizer(optimizer, tmp_path)
    load_optimizer(optimizer, tmp_path)


def test_without_a_kind_it_is_muonclip() -> None:
    values = OPTIMIZER.model_dump(exclude={"kind"})
    assert validate(OptimizerConfig, values, "optimizer") == OPTIMIZER
    assert validate(OptimizerConfig, {"kind": "muonclip", **values}, "optimizer") == OPTIMIZER


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"kind": "muonclap"}, r"r.yaml: optimizer: no optimiser muonclap \(did you mean muonclip\?\); there are:"),
        ({**OPTIMIZER.model_dump(), "momentun": 0.9}, r"optimizer\.momentun: unknown key \(did you mean momentum\?\)"),
        ({"kind": "descent", "lr": 0.1, "momentum": 0.9}, r"optimizer\.momentum: unknown key; allowed here: kind, lr"),
        ({"kind": ["muonclip"]}, "no optimiser"),
    ],
)
def test_faults_are_those_of_the_kind(descent: OptimizerConfig, value: dict[str, Any], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        validate(OptimizerConfig, value, "r.yaml: optimizer")
