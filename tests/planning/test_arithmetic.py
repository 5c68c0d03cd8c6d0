"""Parameters and operations of a plan are those of the real model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Kept
from torch.utils.flop_counter import FlopCounterMode

from k2core.model.config import ModelConfig
from k2core.model.counts import attention_flops, count, total_parameters, training_flops
from k2core.model.transformer import Transformer
from k2core.ops import QUERY_BLOCK, using
from k2core.planning.activations import Activations
from k2core.recipe import load_section

GROUPS = {
    "norm": "norms", "embed_tokens": "embedding", "lm_head": "head", "gate.": "router",
    "shared_experts": "shared_experts", "experts": "routed_experts", "self_attn": "attention", "mlp": "dense",
}  # fmt: skip
"""Part of a parameter's name → its group; the first that fits."""
MHA = {"attention": "mha", "q_lora_rank": None, "kv_lora_rank": None, "n_shared_experts": 2}
LAPTOP = load_section(ModelConfig, Path("recipes/laptop.yaml"), "model")


@pytest.mark.parametrize("recipe", ["laptop", "evening", "gpu", "k2", "mha"])
def test_each_group_has_the_parameters_of_the_modules(recipe: str) -> None:
    if recipe == "mha":
        config = LAPTOP.model_copy(update=MHA)
    else:
        config = load_section(ModelConfig, Path(f"recipes/{recipe}.yaml"), "model")
    with torch.device("meta"):
        model = Transformer(config)
    found: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        found[next(group for part, group in GROUPS.items() if part in name)] += parameter.numel()
    assert dict(found) == {k: v for k, v in vars(count(config)).items() if v}
    assert total_parameters(model) == count(config).total


def grouped_flops(left: tuple[int, ...], right: tuple[int, ...], *_: Any, **__: Any) -> int:
    """Of `grouped_mm`, which torch does not count: each row of tokens meets one expert."""
    return 2 * left[-2] * left[-1] * right[-1]


@pytest.mark.parametrize(("kind", "context"), [("mla", QUERY_BLOCK), ("mla", 8 * QUERY_BLOCK), ("mha", QUERY_BLOCK)])
def test_operations_are_those_that_torch_counts(kind: str, context: int) -> None:
    """`reference` computes a block of queries against all keys up to the block's end: half a block more than needed."""
    model = Transformer(LAPTOP if kind == "mla" else LAPTOP.model_copy(update=MHA))
    experts = {torch.ops.aten._grouped_mm: grouped_flops}
    with using("reference"), FlopCounterMode(display=False, custom_mapping=experts) as counter:
        model(torch.randint(LAPTOP.vocab_size, (1, context))).sum().backward()
    more = 3 * (attention_flops(LAPTOP, context + QUERY_BLOCK - 1) - attention_flops(LAPTOP, context))
    expected = training_flops(model.config, context) + more
    assert counter.get_total_flops() / context == pytest.approx(expected, rel=0.02)


WIDE = {"hidden_size": 256, "moe_intermediate_size": 128, "num_attention_heads": 8, "kv_lora_rank": 64}


@pytest.mark.parametrize("dense", [0, LAPTOP.num_hidden_layers])
@pytest.mark.parametrize(
    ("changes", "rows", "context"), [({}, 4, 2 * QUERY_BLOCK), (WIDE, 4, 64), ({}, 1, 8 * QUERY_BLOCK), (MHA, 4, 256)]
)
def test_activations_are_what_autograd_keeps(changes: dict[str, Any], rows: int, context: int, dense: int) -> None:
    """In fp32 by the kernels in C; without the last norm."""
    config = LAPTOP.model_copy(update={"first_k_dense_replace": dense, **changes})
    model, kept = Transformer(config), Kept()
    with using("cpu"), kept.of(model):
        model.hidden(torch.randint(config.vocab_size, (rows, context)))
    expected = config.num_hidden_layers * Activations(config, "fp32", rows * context, context, 1).layer(bool(dense))
    assert kept.bytes == pytest.approx(expected, rel=0.02)
