"""Parameters by group, those that one token activates, and the operations on a token: from the configuration alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cache
from math import prod
from typing import TYPE_CHECKING

from k2core.model.config import ModelConfig

if TYPE_CHECKING:
    from k2core.model.transformer import Transformer


@dataclass(frozen=True)
class Weights:
    """Parameters of one shape: `times` of them in the model."""

    group: str
    shape: tuple[int, ...]
    times: int

    @property
    def numbers(self) -> int:
        return self.times * prod(self.shape)

    @property
    def muon(self) -> bool:
        """Whether Muon moves them; AdamW moves embedding, head and norms."""
        return self.group not in ("embedding", "head", "norms")


@dataclass(frozen=True)
class Parameters:
    """How many parameters each kind of module has over all layers."""

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


def cut_axis(shape: tuple[int, ...], ranks: int) -> int:
    """Along which axis FSDP2 cuts a parameter over `ranks` (`k2core/training/parallel.py`).

    The first that they divide, up to a matrix's rows: `gate_up_proj` [2, F, D] along F beyond two ranks. Where they
    divide none it is the first axis, and some ranks have less.
    """
    return next((axis for axis, length in enumerate(shape[:-1]) if length % ranks == 0), 0)


@cache
def weights(config: ModelConfig) -> tuple[Weights, ...]:
    """The parameters of a model of this shape."""
    D, E, V, layers = config.hidden_size, config.n_routed_experts, config.vocab_size, config.num_hidden_layers
    F, dense, wide = config.moe_intermediate_size, config.first_k_dense_replace, config.intermediate_size
    sparse, shared = layers - dense, F * config.n_shared_experts
    return (
        Weights("embedding", (V, D), 1), Weights("head", (V, D), 1), Weights("norms", (D,), 2 * layers + 1),
        *_attention(config),
        Weights("dense", (2, wide, D), dense), Weights("dense", (D, wide), dense), Weights("router", (E, D), sparse),
        Weights("shared_experts", (2, shared, D), sparse), Weights("shared_experts", (D, shared), sparse),
        Weights("routed_experts", (E, 2, F, D), sparse), Weights("routed_experts", (E, D, F), sparse),
    )  # fmt: skip


def _attention(config: ModelConfig) -> Iterator[Weights]:
    D, H, layers = config.hidden_size, config.num_attention_heads, config.num_hidden_layers
    keys, values = H * config.qk_head_dim, H * config.v_head_dim
    shapes = [(D, values)]
    if config.attention == "mha":
        shapes += [(keys, D), (keys, D), (values, D)]
    else:
        queries, latents = config.latent_ranks
        shapes += [(queries, D), (keys, queries), (latents + config.qk_rope_head_dim, D)]
        shapes += [(H * config.qk_nope_head_dim + values, latents)]
        yield from (Weights("norms", (width,), layers) for width in (queries, latents))
    yield from (Weights("attention", shape, layers) for shape in shapes)


@cache
def count(config: ModelConfig) -> Parameters:
    """The parameters of a model of this shape, by group."""
    found: Counter[str] = Counter()
    for each in weights(config):
        found[each.group] += each.numbers
    return Parameters(**found)


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
