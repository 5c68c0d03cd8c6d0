"""The models that are measured, and what they train on.

Shapes: B sequences, T positions.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu.findings import Findings
from k2core.data.rows.batch import Batch
from k2core.model.config import ModelConfig
from k2core.model.transformer import Transformer
from k2core.optim.kinds.muonclip import MuonClipConfig
from k2core.recipe import load_section

RECIPES = Path(__file__).parents[2] / "recipes"
MICRO = RECIPES / "micro.yaml"
OPTIMIZER = load_section(MuonClipConfig, RECIPES / "laptop.yaml", "optimizer")
LAPTOP = load_section(ModelConfig, RECIPES / "laptop.yaml", "model")
SMALL = LAPTOP.model_copy(update={
    "vocab_size": 1024, "hidden_size": 128, "intermediate_size": 256, "moe_intermediate_size": 64,
    "num_hidden_layers": 3, "num_attention_heads": 4, "q_lora_rank": 64, "kv_lora_rank": 32, "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16, "v_head_dim": 32, "n_routed_experts": 8, "max_position_embeddings": 1024,
})  # fmt: skip
G = LAPTOP.model_copy(update={
    "vocab_size": 32768, "hidden_size": 1024, "intermediate_size": 4096, "moe_intermediate_size": 512,
    "num_hidden_layers": 12, "num_attention_heads": 16, "q_lora_rank": 512, "kv_lora_rank": 256,
    "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64, "n_routed_experts": 64, "num_experts_per_tok": 8,
    "max_position_embeddings": 4096,
})  # fmt: skip
"""1.243e9 parameters, 274e6 activated."""
K2_WIDTHS = G.model_copy(update={
    "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": 3,
    "num_attention_heads": 64, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 24,
})  # fmt: skip
TINY = SMALL.model_copy(update={"num_hidden_layers": 2, "vocab_size": 256, "max_position_embeddings": 64})
"""In place of the large ones where sizes are small."""


def build(found: Findings, config: ModelConfig, on_cpu: bool = False) -> Transformer:
    """A model with random weights, which depend on the device."""
    torch.manual_seed(1)
    with torch.device("cpu" if on_cpu else found.device):
        return Transformer(config)


def random_rows(found: Findings, config: ModelConfig, rows: int, context: int) -> tuple[Tensor, Tensor]:
    """Random tokens and those after them."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(config.vocab_size, (rows, context + 1), generator=generator).to(found.device)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


class Died(BaseException):
    """As a kill would, it ends a training without a word; Ctrl-C is another thing."""


class Counting:
    """A `BatchSource`: rows that count upwards from anywhere in two documents; optionally it dies at a step."""

    def __init__(self, vocabulary: int, rows: int, context: int, dies_at: int | None = None) -> None:
        self.vocabulary, self.batch_rows, self.context, self.dies_at = vocabulary, rows, context, dies_at

    def batch(self, step: int, rows: range | None = None) -> Batch:
        if step == self.dies_at:
            raise Died
        generator = torch.Generator().manual_seed(step)
        start_B1 = torch.randint(self.vocabulary, (self.batch_rows, 1), generator=generator)
        tokens_BT = (start_B1 + torch.arange(self.context + 1)) % self.vocabulary
        segments_BT = (torch.arange(self.context) > self.context // 3).long().expand(self.batch_rows, -1)
        positions_BT = torch.arange(self.context).expand(self.batch_rows, -1)
        chosen = slice(None) if rows is None else slice(rows.start, rows.stop)
        fields = tokens_BT[:, :-1], tokens_BT[:, 1:], positions_BT, segments_BT
        return Batch(*(field[chosen].contiguous() for field in fields))

    def samples(self, step: int) -> list[str]:
        return [f"counting/{step}"]
