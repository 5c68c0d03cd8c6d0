"""Initial weights: every matrix N(0, initializer_range²), norms 1, router biases 0, all from the seed."""

from __future__ import annotations

import pytest
import torch
from test_variants import VARIANTS

from k2core.model.config import ModelConfig
from k2core.model.transformer import Transformer


def fresh(build, changes, seed: int = 0) -> Transformer:
    config = ModelConfig.model_validate(build(**changes).config.model_dump() | {"initializer_range": 0.02})
    torch.manual_seed(seed)
    return Transformer(config)


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_initial_weights_are_as_stated(build, changes):
    model = fresh(build, changes)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert name.endswith("norm.weight") and bool((parameter == 1).all()), name
        else:
            deviation = 5 * 0.02 / parameter.numel() ** 0.5  # five standard errors
            assert abs(float(parameter.detach().mean())) < deviation, name
            assert abs(float(parameter.detach().std()) - 0.02) < deviation, name
    assert all(not bool(router.e_score_correction_bias.any()) for router in model.routers())
    again, other = fresh(build, changes).state_dict(), fresh(build, changes, seed=1).state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())
    assert all(tensor.ndim == 1 or not torch.equal(tensor, other[name]) for name, tensor in model.state_dict().items())


def test_the_weights_of_a_seed_do_not_change_with_the_code(build):
    """Pinned: existing recipes must keep their results."""
    weights = fresh(build, {}).state_dict()
    pinned = {
        "embed_tokens.weight": [-0.01334562, -0.02735553, -0.04013031],
        "layers.0.self_attn.kv_b_proj.weight": [0.00305365, -0.01436867, 0.01715416],
        "layers.2.mlp.experts.down_proj": [-0.00409088, -0.01776553, 0.00415481],
        "lm_head.weight": [-0.05074957, 0.04663525, -0.00997635],
    }
    for name, values in pinned.items():
        assert weights[name].flatten()[:3].tolist() == pytest.approx(values, abs=1e-7), name
