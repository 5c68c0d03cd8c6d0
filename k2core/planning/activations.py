"""What a forward pass keeps for its backward pass, in bytes, counted operation by operation.

In fp32, where the operations are the kernels of `k2core/ops/cpu`, it is what autograd keeps, within 2%
(tests/planning/test_arithmetic.py); MHA, which has no such kernel, keeps probabilities. In bf16 it is read off
`k2core/ops/cuda` and was never compared with a GPU's memory: attention without its probabilities, the head's logits in
pieces. Tokens are taken to visit all experts equally: a router out of balance needs more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from k2core.machine.device import Precision
from k2core.model.config import ModelConfig
from k2core.model.counts import Weights
from k2core.ops import QUERY_BLOCK

LOGITS = 2**27
"""Logits that `k2core/ops/cuda/head.py` has at once."""
NUMBERS = 20
"""Bytes of the numbers that say where a visit goes."""


@dataclass(frozen=True)
class Activations:
    """Of a micro-batch: `tokens` of this rank, in rows of `context` tokens that `shared` ranks share.

    Attributes:
        exchanged: tokens travel to experts on other ranks and back.
    """

    model: ModelConfig
    precision: Precision
    tokens: float
    context: int
    shared: int
    exchanged: bool = False

    @property
    def width(self) -> int:
        """Bytes of a number."""
        return 2 if self.precision == "bf16" else 4

    @property
    def inputs(self) -> float:
        """A layer's input, which recomputation keeps."""
        return self.tokens * self.model.hidden_size * self.width

    def layer(self, dense: bool) -> float:
        """What one layer keeps."""
        config, D = self.model, self.model.hidden_size
        ranks = (config.q_lora_rank or 0) + (config.kv_lora_rank or 0)
        normed = config.q_lora_rank or 0
        read = self.width * (2 * D + normed + config.num_attention_heads * config.v_head_dim)  # by products
        if self.precision == "bf16":  # as they came and before the weight, both in fp32
            norms = 8.0 * (2 * D + ranks)
        else:  # as they came, the latent with the rotary key; and a number for each row
            norms = 4 * (2 * D + 2) + (4 * (normed + config.cache_width + 2) if config.attention == "mla" else 0)
        return self.tokens * (norms + read + self._attention() + (self._dense() if dense else self._experts()))

    def _attention(self) -> float:
        """Per token: queries, the cache and what is made of it, of whole rows; the probabilities, or their sums."""
        config, H = self.model, self.model.num_attention_heads
        query, value = H * config.qk_head_dim, H * config.v_head_dim
        cache = self.shared * config.cache_width
        mla = config.attention == "mla"
        if self.precision == "bf16":  # keys with their rotary part, and both as they were projected
            made = self.shared * (query + H * config.qk_nope_head_dim + value) if mla else 0.0
            return 2 * (query + cache + made) + 4 * H
        if mla:  # keys and values as they were projected, and a copy of the latent, which they are made of
            made = self.shared * (H * (config.qk_nope_head_dim + config.v_head_dim) + (config.kv_lora_rank or 0))
            return 4 * (query + cache + made + H)
        block = min(QUERY_BLOCK, self.context // (2 * self.shared) if self.shared > 1 else self.context)
        seen = (self.context + block) / 2  # keys of a block of queries
        if self.tokens * self.shared > self.context:  # of several rows, each block's products copy keys and values
            return 4 * (query + (query + value) * seen / block + H * seen)
        return 4 * (query + cache + H * seen)

    def _dense(self) -> float:
        return self.width * self._inner * self.model.intermediate_size

    @property
    def _inner(self) -> int:
        """Numbers of each inner one that a feed-forward keeps: gate and up, their product, on GPUs SiLU too."""
        return 4 if self.precision == "bf16" else 3

    def _experts(self) -> float:
        """Per token: the inner numbers of each expert; rows on their way in, out, and added up."""
        config, visits = self.model, self.model.num_experts_per_tok
        D, F = config.hidden_size, self._inner * config.moe_intermediate_size
        ways = 4 if self.exchanged else 2
        router = 4 * (config.n_routed_experts + 5 * visits) + (4 * D if self.precision == "bf16" else 0)
        return self.width * (F * config.n_shared_experts + visits * (ways * D + F)) + router + NUMBERS * visits

    def kept(self, layers: float, recompute: bool) -> float:
        """What the first `layers` layers keep until their backward pass."""
        if recompute:
            return layers * self.inputs
        dense = min(self.model.first_k_dense_replace, layers)
        return dense * self.layer(True) + (layers - dense) * self.layer(False)

    def backward(self, recompute: bool) -> float:
        """What the backward pass of a layer needs on top: about as much again as it kept, the gradients.

        Recomputed, it keeps what the forward pass did not.
        """
        return (1 + recompute) * self.layer(False)

    @property
    def logits(self) -> float:
        """Logits that are there at once, in their type and as a gradient, on GPUs in fp32 too; and what they are of."""
        if self.precision == "bf16":
            return min(self.tokens * self.model.vocab_size, LOGITS) * (self.width + 8)
        return self.tokens * 8 * (self.model.vocab_size + self.model.hidden_size)


def muon_space(matrices: Iterable[tuple[Weights, float]], precision: Precision) -> float:
    """Bytes that Muon needs for the largest stack of equal matrices (`k2core/optim/muon.py`).

    The stacked gradient, the update, and within Newton-Schulz two copies and two products of the shorter side.

    Args:
        matrices: and how many numbers of them this rank has.
    """
    stacks: Counter[tuple[int, int]] = Counter()
    for each, numbers in matrices:
        if each.muon:
            stacks[each.shape[-2], each.shape[-1]] += ceil(numbers)
    width = 2 if precision == "bf16" else 4
    return max(numbers * (8 + 2 * width * (1 + min(shape) / max(shape))) for shape, numbers in stacks.items())
