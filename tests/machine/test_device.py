"""The recipe's device, backend and precision: what is chosen, and what is refused in a sentence."""

from __future__ import annotations

import pytest
import torch
from processes import sharing

from k2core.machine import Compute, device
from k2core.model.config import ModelConfig
from k2core.model.files import load_model, save_model
from k2core.model.transformer import Transformer
from k2core.recipe import RecipeError, validate
from k2core.training.ranks import Ranks, joined

RECIPE = {"threads": 1, "seed": 0, "device": "auto", "backend": "auto", "precision": "fp32"}


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_here", None)
    monkeypatch.setattr(device, "backend", "auto")
    monkeypatch.setattr(device, "precision", "fp32")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Pretends that there are GPUs; the ones that were chosen."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "3")
    return chosen


@pytest.mark.parametrize(("wanted", "where"), [("auto", "cuda:3"), ("cuda", "cuda:3"), ("cpu", "cpu")])
def test_a_gpu_is_taken_unless_the_recipe_says_otherwise(gpus, wanted, where):
    validate(Compute, RECIPE | {"device": wanted}, "compute").apply()
    assert device.here() == torch.device(where)
    assert [str(gpu) for gpu in gpus] == [where] * (where != "cpu")


@pytest.mark.parametrize("wanted", ["auto", "cpu"])
def test_without_a_gpu_it_is_the_cpu(monkeypatch, wanted):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    device.choose(wanted, "reference")
    assert (device.here(), device.backend) == (torch.device("cpu"), "reference")
    with pytest.raises(RecipeError, match=r"compute.device is cuda, but torch finds no GPU here; set it to"):
        device.choose("cuda", "auto")


def test_kernels_in_c_on_a_gpu_are_refused(gpus):
    with pytest.raises(RecipeError, match=r"compute.backend is cpu, but compute.device auto is a GPU here; set device"):
        device.choose("auto", "cpu")
    assert not gpus and device.here().type == "cpu"


@pytest.mark.parametrize(
    ("backend", "precision", "message"),
    [
        ("cuda", "fp32", "compute.backend is cuda, but compute.device cpu is the CPU here; set backend to auto"),
        ("cpu", "bf16", "compute.backend is cpu, whose kernels are fp32, but precision is bf16; set backend to auto"),
    ],
)
def test_a_backend_that_cannot_do_it_is_refused(backend, precision, message):
    with pytest.raises(RecipeError, match=message):
        device.choose("cpu", backend, precision)
    assert (device.backend, device.precision) == ("auto", "fp32")


def test_the_recipe_chooses_the_precision(monkeypatch):
    monkeypatch.setattr(torch, "set_deterministic_debug_mode", lambda mode: None)
    validate(Compute, RECIPE | {"device": "cpu", "precision": "bf16"}, "compute").apply()
    assert device.precision == "bf16"


def test_models_and_processes_go_to_the_device(monkeypatch, tmp_path):
    """The meta device stands for one that this machine lacks."""
    config = ModelConfig(
        vocab_size=9, hidden_size=8, intermediate_size=8, moe_intermediate_size=4, num_hidden_layers=1, attention="mla",
        num_attention_heads=1, q_lora_rank=4, kv_lora_rank=4, qk_nope_head_dim=4, qk_rope_head_dim=2, v_head_dim=4,
        n_routed_experts=2, num_experts_per_tok=1, n_shared_experts=1, first_k_dense_replace=1,
        routed_scaling_factor=1.0, rope_theta=1e4, rope_scaling=None, max_position_embeddings=8, rms_norm_eps=1e-6,
        initializer_range=0.1,
    )  # fmt: skip
    save_model(Transformer(config), tmp_path)
    assert load_model(tmp_path).device.type == "cpu"
    monkeypatch.setattr(device, "_here", torch.device("meta"))
    assert load_model(tmp_path).device.type == "meta"
    parallel = sharing(1, micro_batch_tokens=1)
    with joined(parallel) as ranks:
        assert ranks.device.type == Ranks().device.type == "meta"
