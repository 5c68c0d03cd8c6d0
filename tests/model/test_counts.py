"""Kimi K2's own shape, on the meta device."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from k2core.formats.huggingface import huggingface_config
from k2core.model.config import ModelConfig
from k2core.model.counts import activated, total_parameters
from k2core.model.transformer import Transformer
from k2core.recipe import load_section
from k2core.training.phases import Extension

RECIPE = Path("recipes/k2.yaml")
YARN = load_section(Extension, RECIPE, "extend_context").rope_scaling
K2 = load_section(ModelConfig, RECIPE, "model").with_rope_scaling(YARN)


def test_k2_has_the_reported_size():
    """The released shape has 1.026T and 32.86B; the report's rounded 1.04T and 32.6B are 1.3% and 0.8% off it."""
    with torch.device("meta"):
        model = Transformer(K2)
        theirs = DeepseekV3ForCausalLM(DeepseekV3Config(**huggingface_config(K2, eos_token_ids=[1])))
    assert total_parameters(model) == sum(parameter.numel() for parameter in theirs.parameters()) == 1_026_408_209_408
    assert activated(model.config) == 32_861_477_888
    assert abs(total_parameters(model) / 1.04e12 - 1) < 0.015
    assert abs(activated(model.config) / 32.6e9 - 1) < 0.01


def test_activated_parameters_of_a_model_small_enough_to_count_by_hand(build):
    model = build()
    expert = 3 * 32 * 16
    assert total_parameters(model) - activated(model.config) == 2 * (4 - 2) * expert  # layers × idle experts
