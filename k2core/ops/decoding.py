"""What a decoding step needs of a model with latent attention, as plain tensors (`k2core.inference.decoders`).

Shapes: B sequences, h half the rotary width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True)
class RoutedWeights:
    """The router and the routed experts of a layer."""

    router: Tensor  # [E, D]
    bias: Tensor  # [E]
    gate_up: Tensor  # [E, 2, F, D]
    down: Tensor  # [E, D, F]


@dataclass(frozen=True)
class LayerWeights:
    """A layer's parameters, in the model's shapes; a dense layer has nothing `routed`."""

    attention_norm: Tensor
    query_latent: Tensor  # [q_rank, D]
    query_norm: Tensor
    queries: Tensor  # [H·(n + r), q_rank]
    key_latent: Tensor  # [rank + r, D]
    key_norm: Tensor
    keys_values: Tensor  # [H·(n + v), rank]
    output: Tensor  # [D, H·v]
    feed_forward_norm: Tensor
    gate_up: Tensor  # [2, width, D], of a dense layer or of the shared experts
    down: Tensor  # [D, width]
    routed: RoutedWeights | None = None


@dataclass(frozen=True)
class DecoderWeights:
    """A model: `scale` multiplies the attention logits, `latent_eps` is the epsilon of the two latent norms."""

    heads: int
    nope: int
    rope: int
    value: int
    experts_per_token: int
    scale: float
    eps: float
    latent_eps: float
    routed_scaling: float
    embedding: Tensor
    norm: Tensor
    head: Tensor
    layers: list[LayerWeights]

    def tensors(self) -> Iterator[Tensor]:
        """All of them."""
        yield from (self.embedding, self.norm, self.head)
        for layer in self.layers:
            parts: list[LayerWeights | RoutedWeights] = [layer, *([layer.routed] if layer.routed else [])]
            for part in parts:
                values = (getattr(part, field.name) for field in fields(part))
                yield from (value for value in values if isinstance(value, Tensor))


class PackedDecoder(Protocol):
    """A decoding step on packed weights; whoever changes the weights must pack again."""

    def step(self, tokens_B: Tensor, lengths_B: Tensor, caches: list[Tensor], cos_Bh: Tensor, sin_Bh: Tensor) -> Tensor:
        """Logits [B, V] after one more token of each sequence, which enters the layers' caches at `lengths_B`.

        Args:
            caches: [B, slots, rank + r] of each layer, changed in place.
            cos_Bh, sin_Bh: the rotation at `lengths_B`, h = r / 2.

        Raises:
            IndexError: a sequence has no slot left, or a token is out of range.
        """
        ...
