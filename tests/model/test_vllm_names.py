"""The export has the tensors and the keys that vLLM's `DeepseekV3ForCausalLM` asks for, without vLLM.

Names and shapes are written from the modules that vLLM declares (`vllm/model_executor/models/deepseek_v2.py` at commit
002d607, before it stacks gate and up, and q_a and kv_a), and so is what it reads of `config.json`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig
from workspace import ROOT

from k2core.formats.huggingface import huggingface_config, to_huggingface
from k2core.model.config import ModelConfig
from k2core.model.transformer import Transformer
from k2core.recipe import load_section
from k2core.training.phases import Extension

READ = (
    "hidden_size", "vocab_size", "num_hidden_layers", "num_attention_heads", "q_lora_rank", "kv_lora_rank",
    "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "intermediate_size", "moe_intermediate_size",
    "n_routed_experts", "n_shared_experts", "num_experts_per_tok", "norm_topk_prob", "n_group", "topk_group",
    "first_k_dense_replace", "moe_layer_freq", "topk_method", "scoring_func", "routed_scaling_factor", "hidden_act",
    "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings",
)  # fmt: skip


def declared(c: ModelConfig) -> dict[str, tuple[int, ...]]:
    """What vLLM's modules hold: a linear layer from n to m features has a weight [m, n]."""
    width, heads = c.hidden_size, c.num_attention_heads
    key = c.qk_nope_head_dim + c.qk_rope_head_dim
    found: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (c.vocab_size, width), "model.norm.weight": (width,),
        "lm_head.weight": (c.vocab_size, width),
    }  # fmt: skip

    def mlp(prefix: str, inner: int) -> None:
        for name in ("gate_proj", "up_proj"):
            found[f"{prefix}.{name}.weight"] = (inner, width)
        found[f"{prefix}.down_proj.weight"] = (width, inner)

    for layer in range(c.num_hidden_layers):
        at = f"model.layers.{layer}"
        found |= {f"{at}.{name}.weight": (width,) for name in ("input_layernorm", "post_attention_layernorm")}
        found |= {f"{at}.self_attn.{name}.weight": shape for name, shape in {
            "q_a_proj": (c.q_lora_rank, width), "q_a_layernorm": (c.q_lora_rank,),
            "q_b_proj": (heads * key, c.q_lora_rank),
            "kv_a_proj_with_mqa": (c.kv_lora_rank + c.qk_rope_head_dim, width), "kv_a_layernorm": (c.kv_lora_rank,),
            "kv_b_proj": (heads * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank),
            "o_proj": (width, heads * c.v_head_dim),
        }.items()}  # fmt: skip
        if layer < c.first_k_dense_replace:
            mlp(f"{at}.mlp", c.intermediate_size)
            continue
        found[f"{at}.mlp.gate.weight"] = (c.n_routed_experts, width)
        found[f"{at}.mlp.gate.e_score_correction_bias"] = (c.n_routed_experts,)
        mlp(f"{at}.mlp.shared_experts", c.moe_intermediate_size * c.n_shared_experts)
        for expert in range(c.n_routed_experts):
            mlp(f"{at}.mlp.experts.{expert}", c.moe_intermediate_size)
    return found


@pytest.fixture(params=["laptop", "k2"])
def config(request: pytest.FixtureRequest) -> ModelConfig:
    """The recipe's shape with its longer context, two layers of it."""
    recipe = ROOT / "recipes" / f"{request.param}.yaml"
    whole = load_section(ModelConfig, recipe, "model")
    return whole.model_copy(update={"num_hidden_layers": 2}).with_rope_scaling(
        load_section(Extension, recipe, "extend_context").rope_scaling
    )


def test_the_tensors_are_those_that_vllm_declares(config: ModelConfig) -> None:
    with torch.device("meta"):
        state = to_huggingface(Transformer(config).state_dict())
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == declared(config)


def test_the_configuration_has_what_vllm_reads(config: ModelConfig, tmp_path: Path) -> None:
    written = huggingface_config(config, eos_token_ids=[1])
    assert set(READ) <= written.keys() and written["architectures"] == ["DeepseekV3ForCausalLM"]
    (tmp_path / "config.json").write_text(json.dumps(written))
    read = AutoConfig.from_pretrained(tmp_path)
    assert all(getattr(read, key) == written[key] for key in READ)
    scaling = config.rope_scaling
    assert read.rope_parameters["rope_type"] == ("yarn" if scaling else "default")
    for key in ("factor", "mscale_all_dim") if scaling else ():
        assert read.rope_parameters[key] == getattr(scaling, key)
