"""A model small enough for milliseconds, with random weights of a size that makes differences visible."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from k2core.model.config import ModelConfig
from k2core.model.transformer import Transformer

SHAPE: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16,
    "num_hidden_layers": 3, "num_attention_heads": 2, "attention": "mla",
    "q_lora_rank": 16, "kv_lora_rank": 12, "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8, "v_head_dim": 12, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1,
    "first_k_dense_replace": 1, "routed_scaling_factor": 2.827, "rope_theta": 50000.0, "rope_scaling": None,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "initializer_range": 0.2,
}  # fmt: skip
YARN: dict[str, Any] = {
    "factor": 4.0, "beta_fast": 1.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip


@pytest.fixture
def build() -> Callable[..., Transformer]:
    """Make a model; keywords change the shape, ``yarn=True`` extends the context."""

    def make(yarn: bool = False, seed: int = 0, **changes: Any) -> Transformer:
        extension = {"rope_scaling": YARN, "max_position_embeddings": 256} if yarn else {}
        torch.manual_seed(seed)
        model = Transformer(ModelConfig.model_validate(SHAPE | extension | changes))
        for router in model.routers():  # a bias that changes choices, so that parity tests see it
            router.e_score_correction_bias.copy_(torch.linspace(-0.2, 0.2, len(router.weight)))
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
        return model

    return make
