"""What a forward pass keeps for its backward pass, in bytes, counted operation by operation.

In fp32, where the operations are those of `k2core/ops/reference.py`, it is what autograd keeps, within 2%
(tests/planning/test_arithmetic.py). In bf16 it is read off `k2core/ops/cuda` and was never compared with a GPU's
memory: attention without its probabilities, the head's logits in pieces. Tokens are taken to visit all experts equally:
a router out of balance needs more.
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
NORM = 8
"""Bytes of a number that a norm keeps: as it came and before the weight, both in fp32."""
NUMBERS = 20
"""Bytes of the numbers that say where a visit goes."""
WORKING = 2
"""In the backward pass of a layer there is about as much again as it kept: the gradients."""


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
        D, ranks = self.model.hidden_size, (self.model.q_lora_rank or 0, self.model.kv_lora_rank or 0)
        norms = NORM * (2 * D + sum(ranks))
        read = self.width * (2 * D + ranks[0] + self.model.num_attention_heads * self.model.v_head_dim)  # by products
        return self.tokens * (norms + read + self._attention() + (self._dense() if dense else self._experts()))

    def _attention(self) -> float:
        """Per token: queries, the cache and what is made of it, of whole rows; in fp32 probabilities."""
        config, H = self.model, self.model.num_attention_heads
        query, value = H * config.qk_head_dim, H * config.v_head_dim
        cache = self.shared * config.cache_width
        # keys with their rotary part, and both as they were projected; MHA has them in its cache
        made: float = self.shared * (query + H * config.qk_nope_head_dim + value) if config.attention == "mla" else 0
        if self.precision == "bf16":
            return 2 * (query + cache + made) + 4 * H  # and the sums of the probabilities
        block = min(QUERY_BLOCK, self.context // (2 * self.shared) if self.shared > 1 else self.context)
        seen = (self.context + block) / 2  # keys of a block of queries
        if self.tokens * self.shared > self.context:  # of several rows, each block's products copy keys and values
            cache, made = cache if config.attention == "mla" else 0, (query + value) * seen / block
        return 4 * (query + cache + made + H * seen)

    def _dense(self) -> float:
        return self.width * 4 * self.model.intermediate_size

    def _experts(self) -> float:
        """Per token: gate and up, SiLU and product of each expert; rows on their way in, out, and added up."""
        config, visits = self.model, self.model.num_experts_per_tok
        D, F = config.hidden_size, 4 * config.moe_intermediate_size
        ways = 4 if self.exchanged else 2 if self.precision == "bf16" else 3
        router = 4 * (config.n_routed_experts + 5 * visits) + (4 * D if self.precision == "bf16" else 0)
        return self.width * (F * config.n_shared_experts + visits * (ways * D + F)) + router + NUMBERS * visits

    def kept(self, layers: float, recompute: bool) -> float:
        """What the first `layers` layers keep, and the backward pass of one with experts."""
        working = self.layer(False)
        if recompute:
            return layers * self.inputs + WORKING * working
        dense = min(self.model.first_k_dense_replace, layers)
        return dense * self.layer(True) + (layers - dense) * working + (WORKING - 1) * working

    @property
    def logits(self) -> float:
        """Logits that are there at once, in their type, in fp32 and as a gradient."""
        all_of_them = self.tokens * self.model.vocab_size
        return (min(all_of_them, LOGITS) if self.precision == "bf16" else all_of_them) * (self.width + 8)


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
