"""Kimi K2's own shape, on the meta device."""

from __future__ import annotations

import torch
from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

from k2core.model.config import ModelConfig
from k2core.model.counts import activated_parameters, total_parameters
from k2core.model.huggingface import huggingface_config
from k2core.model.transformer import Transformer

K2 = ModelConfig.model_validate({
    "vocab_size": 163840, "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
    "num_hidden_layers": 61, "num_attention_heads": 64, "attention": "mla", "q_lora_rank": 1536, "kv_lora_rank": 512,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 384,
    "num_experts_per_tok": 8, "n_shared_experts": 1, "first_k_dense_replace": 1, "routed_scaling_factor": 2.827,
    "rope_theta": 50000.0, "max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "initializer_range": 0.006,
    "rope_scaling": {"factor": 32.0, "beta_fast": 1.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
                     "original_max_position_embeddings": 4096},
})  # fmt: skip


def test_k2_has_the_reported_size():
    """The released shape has 1.026T and 32.86B; the report's rounded 1.04T and 32.6B are 1.3% and 0.8% off it."""
    with torch.device("meta"):
        model = Transformer(K2)
        theirs = DeepseekV3ForCausalLM(DeepseekV3Config(**huggingface_config(K2, eos_token_ids=[1])))
    assert total_parameters(model) == sum(parameter.numel() for parameter in theirs.parameters()) == 1_026_408_209_408
    assert activated_parameters(model) == 32_861_477_888
    assert abs(total_parameters(model) / 1.04e12 - 1) < 0.015
    assert abs(activated_parameters(model) / 32.6e9 - 1) < 0.01


def test_activated_parameters_of_a_model_small_enough_to_count_by_hand(build):
    model = build()
    expert = 3 * 32 * 16
    assert total_parameters(model) - activated_parameters(model) == 2 * (4 - 2) * expert  # layers × idle experts
