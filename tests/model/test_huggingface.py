"""Numbers equal to transformers' deepseek_v3: logits, gradients, folders; conversion is bit-exact."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from k2core.formats.huggingface import INDEX, from_huggingface, load_huggingface, save_huggingface, to_huggingface
from k2core.model.loss import cross_entropy
from k2core.storage import StorageError

pytestmark = pytest.mark.usefixtures("either_way")


def reference(model, folder: Path):
    save_huggingface(model, folder, eos_token_ids=[1])
    loaded, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert type(loaded).__name__ == "DeepseekV3ForCausalLM"
    return loaded


def compare(model, theirs, tokens: torch.Tensor) -> tuple[float, float]:
    """Largest difference of a logit, and the largest relative difference of a parameter's gradient.

    With one expert per token the router's weights are constant and its gradient is rounding: no more than 1e-5
    of all parameters' gradient, which is then what the difference is relative to.
    """
    ours, logits = model(tokens[:, :-1]), theirs(tokens[:, :-1]).logits
    assert float(logits.detach().std()) > 0.3  # otherwise equality would say little
    cross_entropy(ours, tokens[:, 1:]).backward()
    cross_entropy(logits, tokens[:, 1:]).backward()
    expected = to_huggingface({name: parameter.grad for name, parameter in model.named_parameters()})
    floor = 1e-5 * torch.nn.utils.get_total_norm([parameter.grad for parameter in theirs.parameters()])
    worst = 0.0
    for name, parameter in theirs.named_parameters():
        if ".experts." in name and "shared" not in name:  # transformers stacks them on loading
            matrices = ["gate_proj", "up_proj"] if "gate_up" in name else ["down_proj"]
            prefix = name.rpartition(".")[0]
            mine = torch.stack([
                torch.cat([expected.pop(f"{prefix}.{e}.{matrix}.weight") for matrix in matrices])
                for e in range(parameter.shape[0])
            ])  # fmt: skip
        else:
            mine = expected.pop(name)
        worst = max(worst, float((mine - parameter.grad).norm() / parameter.grad.norm().clamp(min=floor)))
    assert not expected  # every one of our parameters was compared
    return float((ours - logits).detach().abs().max()), worst


@pytest.mark.parametrize("length", [24, 200], ids=["short", "beyond-the-original-context"])
@pytest.mark.parametrize(
    ("yarn", "changes"),
    [
        (False, {}),
        (True, {}),
        (True, {"rope_scaling": {
            "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 0.5,
            "original_max_position_embeddings": 32}}),
    ],
    ids=["plain", "yarn-as-k2", "yarn-with-ramp"],
)  # fmt: skip
def test_logits_and_gradients_equal_transformers(build, tmp_path, yarn, changes, length):
    model = build(yarn, qk_rope_head_dim=16, **changes)
    tokens = torch.randint(0, 96, (2, length + 1), generator=torch.Generator().manual_seed(1))
    logits, gradients = compare(model, reference(model, tmp_path), tokens)
    assert logits < 1e-4 and gradients < 1e-3


def random_shape(random: Random) -> dict[str, Any]:
    """Any model that `deepseek_v3` can be, small."""
    layers, experts = random.randint(1, 4), random.randint(2, 9)
    original = random.choice([16, 32, 64])
    yarn = {
        "factor": random.choice([2.0, 4.0, 6.5]), "beta_fast": random.choice([1.0, 4.0, 32.0]), "beta_slow": 1.0,
        "mscale": random.choice([0.7, 1.0]), "mscale_all_dim": random.choice([0.5, 1.0]),
        "original_max_position_embeddings": original,
    }  # fmt: skip
    extended = random.random() < 0.6
    return {
        "hidden_size": random.choice([24, 32, 40]), "intermediate_size": random.choice([32, 56]),
        "moe_intermediate_size": random.choice([8, 16, 24]), "num_hidden_layers": layers,
        "num_attention_heads": random.randint(1, 5), "q_lora_rank": random.choice([12, 24]),
        "kv_lora_rank": random.choice([8, 20]), "qk_nope_head_dim": random.choice([4, 12]),
        "qk_rope_head_dim": random.choice([4, 8, 16]), "v_head_dim": random.choice([8, 12, 20]),
        "n_routed_experts": experts, "num_experts_per_tok": random.randint(1, experts),
        "n_shared_experts": random.randint(1, 3), "first_k_dense_replace": random.randint(0, layers),
        "routed_scaling_factor": random.choice([1.0, 2.5]), "rope_theta": random.choice([1e4, 5e4]),
        "rope_scaling": yarn if extended else None, "rms_norm_eps": random.choice([1e-6, 1e-5]),
        "max_position_embeddings": round(yarn["factor"] * original) if extended else original,
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_random_configurations_equal_transformers(build, tmp_path, seed):
    """Each with a short batch and one past the original context; and the way back through transformers' own file."""
    random = Random(seed)
    shape = random_shape(random)
    original = (shape["rope_scaling"] or {}).get("original_max_position_embeddings", shape["max_position_embeddings"])
    for length in (original // 2, original + random.randint(1, original)):
        model = build(seed=seed, **shape)
        theirs = reference(model, tmp_path / str(length))
        tokens = torch.randint(0, 96, (2, length + 1), generator=torch.Generator().manual_seed(seed))
        logits, gradients = compare(model, theirs, tokens)
        assert logits < 1e-4 and gradients < 1e-3
    theirs.save_pretrained(tmp_path / "theirs")
    saved = load_file(tmp_path / "theirs" / "model.safetensors")
    assert_equal(saved, load_file(tmp_path / str(length) / "model.safetensors"))
    assert_equal(from_huggingface(saved, model.config), model.state_dict())
    assert_equal(to_huggingface(from_huggingface(saved, model.config)), saved)


def test_shards_are_those_that_transformers_writes_and_load_everywhere(build, tmp_path):
    model = build()
    theirs = reference(model, tmp_path / "whole")
    size = sum(tensor.numel() * 4 for tensor in to_huggingface(model.state_dict()).values())
    save_huggingface(model, tmp_path / "parts", eos_token_ids=[1], shard_bytes=size // 3)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=size // 3)
    ours, index = (json.loads((tmp_path / name / INDEX).read_text()) for name in ("parts", "theirs"))
    assert ours["weight_map"].keys() == index["weight_map"].keys() and ours["metadata"]["total_size"] == size
    files = sorted(path.name for path in (tmp_path / "parts").glob("*.safetensors"))
    assert len(files) >= 3 and set(ours["weight_map"].values()) == set(files)
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors" and not (tmp_path / "whole" / INDEX).exists()
    for name in files:
        assert (tmp_path / "parts" / name).stat().st_size < size // 3 + 10_000
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path / "parts", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_equal(loaded.state_dict(), theirs.state_dict())
    assert_equal(load_huggingface(tmp_path / "parts").state_dict(), model.state_dict())


def test_the_random_configurations_cover_what_matters():
    shapes = [random_shape(Random(seed)) for seed in range(12)]
    dense = [shape["first_k_dense_replace"] / shape["num_hidden_layers"] for shape in shapes]
    assert {0.0, 1.0} < set(dense)  # no dense layer, all dense, and between
    assert {shape["rope_scaling"] is None for shape in shapes} == {True, False}


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """The same names and the same bits."""
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert tensor.dtype == found[name].dtype and torch.equal(tensor, found[name]), name


def test_yarn_changes_the_logits(build):
    model, tokens = build(yarn=True).requires_grad_(False), torch.arange(60)[None]
    plain = build().requires_grad_(False)
    plain.load_state_dict(model.state_dict())
    assert float((model(tokens) - plain(tokens)).abs().max()) > 1e-2


def test_conversion_is_bit_exact_both_ways(build):
    model = build()
    state = model.state_dict()
    back = from_huggingface(to_huggingface(state), model.config)
    assert list(back) == list(state)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_conversion_names_what_is_missing_or_unknown(build):
    model = build()
    state = to_huggingface(model.state_dict())
    lost = state.pop("model.layers.1.mlp.experts.2.up_proj.weight")
    with pytest.raises(KeyError, match=r"layers\.1\.mlp\.experts\.2\.up_proj"):
        from_huggingface(state, model.config)
    state |= {"model.layers.1.mlp.experts.2.up_proj.weight": lost, "model.layers.9.x": lost}
    with pytest.raises(ValueError, match=r"model\.layers\.9\.x"):
        from_huggingface(state, model.config)


@pytest.mark.parametrize("yarn", [False, True], ids=["plain", "yarn"])
def test_a_saved_folder_loads_as_the_same_model(build, tmp_path, yarn):
    model = build(yarn=yarn)
    save_huggingface(model, tmp_path, eos_token_ids=[1])
    loaded = load_huggingface(tmp_path)
    assert loaded.config == model.config
    assert_equal(loaded.state_dict(), model.state_dict())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "no such file; name an exported model"),
        (lambda folder: (folder / "config.json").write_text("{"), "not valid JSON"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "llama"}'), "model_type is 'llama'"),
        (lambda folder: (folder / "model.safetensors").unlink(), "not those of its config.json"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"torn"), "not a whole safetensors file"),
    ],
)
def test_a_folder_that_is_no_such_model_is_a_sentence(build, tmp_path, spoil, message):
    save_huggingface(build(), tmp_path, eos_token_ids=[1])
    spoil(tmp_path)
    with pytest.raises(StorageError, match=message):
        load_huggingface(tmp_path)
