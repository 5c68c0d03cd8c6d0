"""Numbers equal to transformers' deepseek_v3: logits, gradients, folders; conversion is bit-exact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from k2core.model.huggingface import from_huggingface, save_huggingface, to_huggingface
from k2core.model.loss import cross_entropy


def reference(model, folder: Path):
    save_huggingface(model, folder, eos_token_ids=[1])
    loaded, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert type(loaded).__name__ == "DeepseekV3ForCausalLM"
    return loaded


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
def test_logits_and_gradients_equal_transformers(build, tmp_path, yarn, changes):
    model = build(yarn, qk_rope_head_dim=16, **changes)
    theirs = reference(model, tmp_path)
    tokens = torch.randint(0, 96, (2, 201), generator=torch.Generator().manual_seed(1))  # past the original 64
    ours = model(tokens[:, :-1])
    logits = theirs(tokens[:, :-1]).logits
    assert float(logits.detach().std()) > 0.3  # otherwise equality would say little
    assert float((ours - logits).detach().abs().max()) < 1e-4

    cross_entropy(ours, tokens[:, 1:]).backward()
    cross_entropy(logits, tokens[:, 1:]).backward()
    expected = to_huggingface({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, parameter in theirs.named_parameters():
        if ".experts." in name and "shared" not in name:  # transformers stacks them on loading
            matrices = ["gate_proj", "up_proj"] if "gate_up" in name else ["down_proj"]
            prefix = name.rpartition(".")[0]
            mine = torch.stack([
                torch.cat([expected[f"{prefix}.{e}.{matrix}.weight"] for matrix in matrices])
                for e in range(parameter.shape[0])
            ])  # fmt: skip
        else:
            mine = expected[name]
        assert float((mine - parameter.grad).norm() / parameter.grad.norm()) < 1e-3, name


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
