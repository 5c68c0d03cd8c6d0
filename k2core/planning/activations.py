"""What a forward pass keeps for its backward pass, in bytes: an estimate from the operations' inputs.

In bf16 as `k2core/ops/cuda`: attention without its probabilities, the head's logits in pieces. In fp32, where the
operations are those of `k2core/ops/reference.py`, with probabilities and all logits; autograd keeps a fifth more there
(tests/planning/test_arithmetic.py). Tokens are taken to visit all experts equally: a router out of balance needs more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from k2core.machine.device import Precision
from k2core.model.config import ModelConfig
from k2core.model.counts import Weights

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
