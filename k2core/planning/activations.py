"""What a forward pass keeps for its backward pass, in bytes: an estimate from the operations' inputs.

Counted is what `k2core/ops/cuda` keeps in bf16: attention without its probabilities, the head's logits in pieces. In fp32,
where the operations are those of `k2core/ops/reference.py`, probabilities and all logits are counted. Kernels that fuse
keep less. Tokens are taken to visit all experts equally: a router out of balance needs more.
"""

from __future__ import annotations

from dataclasses import dataclass

from k2core.machine.device import Precision
from k2core.model.config import ModelConfig

LOGITS = 2**27
"""Logits that `k2core/ops/cuda/head.py` has at once."""
WORKING = 2
"""In the backward pass of a layer there is about as much again as it kept: the gradients."""


@dataclass(frozen=True)
class Activations:
    """Of a micro-batch: `tokens` of this rank, in rows of `context` tokens that `shared` ranks share."""

    model: ModelConfig
    precision: Precision
    tokens: float
    context: int
    shared: int

    @property
    def width(self) -> int:
        """Bytes of a number."""
        return 2 if self.precision == "bf16" else 4

    @property
    def inputs(self) -> float:
        """A layer's input, which recomputation keeps."""
        return self.tokens * self.model.hidden_size * self.width

    @property
    def rows(self) -> float:
        """Gathered cache and expanded keys and values of the whole rows, in one layer."""
        heads = self.model.num_attention_heads * (2 * self.model.qk_head_dim + self.model.v_head_dim)
        return self.tokens * self.shared * (self.model.cache_width + heads) * self.width

    def layer(self, dense: bool) -> float:
        """What one layer keeps, its input included."""
        config = self.model
        D, H = config.hidden_size, config.num_attention_heads
        numbers = 2 * D + 2 * (config.q_lora_rank or 0) + 2 * H * config.qk_head_dim + H * config.v_head_dim
        if dense:
            numbers += D + 3 * config.intermediate_size
        else:
            F, visits = config.moe_intermediate_size, config.num_experts_per_tok
            numbers += D + 3 * F * config.n_shared_experts + visits * (2 * D + 3 * F) + 2 * config.n_routed_experts
        probabilities = H * self.context / 2 * (self.width + 4) if self.precision == "fp32" else 0
        return self.tokens * (numbers * self.width + probabilities) + self.rows

    def kept(self, layers: int, recompute: bool) -> float:
        """What `layers` layers with experts keep, and the backward pass of one of them."""
        if recompute:
            return layers * self.inputs + WORKING * self.layer(False)
        return (layers + WORKING - 1) * self.layer(False)

    @property
    def logits(self) -> float:
        """Logits that are there at once, in their type, in fp32 and as a gradient."""
        all_of_them = self.tokens * self.model.vocab_size
        return (min(all_of_them, LOGITS) if self.precision == "bf16" else all_of_them) * (self.width + 8)


def muon_space(model: ModelConfig, share: float, experts_share: float, precision: Precision) -> float:
    """Bytes that Muon needs for the largest group of equal matrices (`k2core/optim/muon.py`).

    The stacked gradient, the update, and within Newton-Schulz two copies and two products of the shorter side.

    Args:
        share: of the matrices outside routed experts, that this rank orthogonalises; `experts_share` of the experts'.
    """
    D, layers, dense = model.hidden_size, model.num_hidden_layers, model.first_k_dense_replace
    F, wide = model.moe_intermediate_size, model.intermediate_size
    experts = (layers - dense) * model.n_routed_experts * experts_share
    groups = [(2 * experts, F, D), (2 * dense * share, wide, D), (layers * share, D, D)]
    if model.attention == "mla":
        queries, latents = model.latent_ranks
        heads = model.num_attention_heads
        groups += [(layers * share, heads * model.qk_head_dim, queries)]
        groups += [(layers * share, heads * (model.qk_nope_head_dim + model.v_head_dim), latents)]
    width = 2 if precision == "bf16" else 4
    return max(n * rows * columns * (8 + 2 * width * (1 + min(rows, columns) / max(rows, columns)))
               for n, rows, columns in groups)  # fmt: skip
