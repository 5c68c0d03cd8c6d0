"""What is exported for other trainers is the recipe: steps, rates, divisions, and parameters on the meta device."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from k2core.model.counts import count
from k2core.planning.export import REGISTRY, app, read

K2 = Path("recipes/k2.yaml")
TRAINERS = ("torchtitan", "megatron-bridge")


def exported(to: str, out: Path, recipe: Path = K2) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(recipe), "--to", to, "--out", str(out)])
    return done.exit_code, done.output


def values(out: Path) -> dict[str, Any]:
    """The literals and the names of the functions of the written module."""
    tree = ast.parse((out / REGISTRY).read_text())
    found: dict[str, Any] = {"functions": [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = ast.literal_eval(node.value)
    return found


@pytest.mark.parametrize("to", TRAINERS)
def test_every_phase_has_its_steps_rows_and_rates(to: str, tmp_path: Path) -> None:
    code, text = exported(to, tmp_path / "k2")
    found, recipe = values(tmp_path / "k2"), read(K2)
    assert code == 0 and "never run there" in text
    assert set(recipe.phases) <= set(found["functions"]) and list(found["PHASES"]) == list(recipe.phases)
    for name, (phase, _) in recipe.phases.items():
        own = found["PHASES"][name]
        trained = own["training"] if to == "torchtitan" else own["train"]
        steps = trained["steps" if to == "torchtitan" else "train_iters"]
        assert steps * trained["global_batch_size"] * phase.context_length == phase.steps * phase.batch_tokens
        rate = own["lr"] if to == "torchtitan" else own["schedule"]["max_lr"]
        end = rate * own["schedule"]["min_lr_factor"] if to == "torchtitan" else own["schedule"]["min_lr"]
        assert rate == pytest.approx(2e-4 * phase.schedule.lr_start)
        assert end == pytest.approx(2e-4 * phase.schedule.lr_end)


@pytest.mark.parametrize("recipe", ["k2", "laptop"])
def test_the_exported_model_has_the_recipes_parameters(recipe: str, tmp_path: Path) -> None:
    """As `transformers` builds it: Megatron-Bridge reads this configuration."""
    from transformers import AutoConfig, AutoModelForCausalLM

    path = Path(f"recipes/{recipe}.yaml")
    assert exported("megatron-bridge", tmp_path / "out", path)[0] == 0
    for name, (_, config) in read(path).phases.items():
        if name not in ("stable", "extend_context"):
            continue
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "out" / name))
        assert sum(parameter.numel() for parameter in model.parameters()) == count(config).total


def test_torchtitan_builds_the_recipes_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where torchtitan is installed; it is none of this project's requirements."""
    pytest.importorskip("torchtitan")
    assert exported("torchtitan", tmp_path / "k2_titan")[0] == 0
    monkeypatch.syspath_prepend(tmp_path)
    registry = importlib.import_module("k2_titan.config_registry")
    try:
        for name, (phase, config) in read(K2).phases.items():
            trainer = getattr(registry, name)()
            with torch.device("meta"):
                model = trainer.model_spec.model.build()
            assert sum(parameter.numel() for parameter in model.parameters()) == count(config).total
            assert trainer.training.seq_len == phase.context_length
    finally:
        sys.modules.pop("k2_titan.config_registry", None)


def test_a_pipeline_is_laid_out_as_ours(tmp_path: Path) -> None:
    recipe = tmp_path / "pipelined.yaml"
    parallel = (
        "{processes: 256, context: 1, experts: 16, pipeline: 16, virtual: 3, stages: {rl: {pipeline: 1, virtual: 1}}}"
    )
    recipe.write_text(f"extends: {K2.resolve().with_suffix('')}\nparallel: {parallel}\n")
    assert exported("megatron-bridge", tmp_path / "out", recipe)[0] == 0
    layout = values(tmp_path / "out")["MODEL"]["pipeline_model_parallel_layout"]
    assert len(layout) == 48 and sum(piece.count("decoder") for piece in layout) == 61
    assert layout[0][0] == "embedding" and layout[-1][-1] == "loss"
    code, text = exported("torchtitan", tmp_path / "flat", recipe)
    assert code == 0 and "parallel.pipeline 16: its DistMuon takes none" in text
    assert values(tmp_path / "flat")["PARALLELISM"]["data_parallel_shard_degree"] == 256
    code, text = exported("torchtitam", tmp_path / "none")
    assert code == 1 and "did you mean torchtitan" in text


def test_phases_that_no_module_can_have_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    recipe, laptop = tmp_path / "odd.yaml", Path("recipes/laptop.yaml").read_text()
    for to, name in (("torchtitan", "my-phase"), ("torchtitan", "../out"), ("torchtitan", "trainer"),
                     ("megatron-bridge", "class"), ("megatron-bridge", "config")):  # fmt: skip
        recipe.write_text(laptop.replace("pretrain:\n  stable:", f"pretrain:\n  {name!r}:"))
        code, text = exported(to, tmp_path / "k2", recipe)
        assert code == 1 and f"pretrain.{name}: " in text and not (tmp_path / "k2").exists()


def test_what_torchtitan_has_no_key_for_is_said(tmp_path: Path) -> None:
    recipe = tmp_path / "odd.yaml"
    changes = "optimizer: {adamw_lr: 0.123}\nparallel: {recompute: false}\n"
    recipe.write_text(f"extends: {K2.resolve().with_suffix('')}\n{changes}")
    said = exported("torchtitan", tmp_path / "k2", recipe)[1]
    assert "adamw_lr 0.123" in said and "recompute false" in said
