"""Parameters by group, those that one token activates, and the operations on a token: from the configuration alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from k2core.model.config import ModelConfig

if TYPE_CHECKING:
    from k2core.model.transformer import Transformer


@dataclass(frozen=True)
class Parameters:
    """How many parameters each kind of module has over all layers; `matrices` are Muon's, all others AdamW's."""

    embedding: int
    head: int
    attention: int
    dense: int
    router: int
    shared_experts: int
    routed_experts: int
    norms: int

    @property
    def total(self) -> int:
        """All trained parameters, embedding and head included."""
        return sum(asdict(self).values())

    @property
    def matrices(self) -> int:
        """Those that Muon moves: all but embedding, head and norms."""
        return self.total - self.embedding - self.head - self.norms


def count(config: ModelConfig) -> Parameters:
    """The parameters of a model of this shape, by group."""
    D, layers = config.hidden_size, config.num_hidden_layers
    dense = config.first_k_dense_replace
    attention, norms = _attention(config)
    expert = 3 * D * config.moe_intermediate_size
    return Parameters(
        embedding=config.vocab_size * D,
        head=config.vocab_size * D,
        attention=layers * attention,
        dense=dense * 3 * D * config.intermediate_size,
        router=(layers - dense) * config.n_routed_experts * D,
        shared_experts=(layers - dense) * config.n_shared_experts * expert,
        routed_experts=(layers - dense) * config.n_routed_experts * expert,
        norms=layers * (2 * D + norms) + D,
    )


def _attention(config: ModelConfig) -> tuple[int, int]:
    """Weights of one layer's attention, in matrices and in its own norms."""
    D, H, value = config.hidden_size, config.num_attention_heads, config.v_head_dim
    if config.attention == "mha":
        return D * H * (2 * config.qk_head_dim + value) + H * value * D, 0
    queries, latents = config.latent_ranks
    down = D * (queries + latents + config.qk_rope_head_dim)
    up = queries * H * config.qk_head_dim + latents * H * (config.qk_nope_head_dim + value)
    return down + up + H * value * D, queries + latents


def activated(config: ModelConfig) -> int:
    """Parameters that take part in one token's forward pass: all but the routed experts it does not visit.

    Embedding and head count in full, as in DeepSeek-V3's and K2's tables.
    """
    found = count(config)
    visited = found.routed_experts * config.num_experts_per_tok // config.n_routed_experts
    return found.total - found.routed_experts + visited


def attention_flops(config: ModelConfig, context: int) -> float:
    """Operations of causal attention's two products per token in a forward pass, over rows of `context` tokens."""
    seen = (context + 1) / 2  # keys before a token, on average over the row
    heads = config.num_attention_heads * (config.qk_head_dim + config.v_head_dim)
    return config.num_hidden_layers * 2 * heads * seen


def training_flops(config: ModelConfig, context: int) -> float:
    """Operations per trained token: 6 for each activated weight, and causal attention's products three times.

    The embedding is a look-up and does not count. As in PaLM's appendix B, recomputation does not count either.
    """
    return 6 * (activated(config) - count(config).embedding) + 3 * attention_flops(config, context)


def total_parameters(model: Transformer) -> int:
    """All trained parameters of `model`, counted tensor by tensor."""
    return sum(parameter.numel() for parameter in model.parameters())
