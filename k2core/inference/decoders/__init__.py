"""How a token is decoded: by the model itself, or by a step that a backend has packed its weights for.

Shapes: B sequences.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from k2core.inference.decoders.packed import packed
from k2core.model.cache import KeyValueCache
from k2core.model.transformer import Transformer


class Decoder(Protocol):
    """What the sampler steps with."""

    def decode(self, tokens_B: Tensor, cache: KeyValueCache) -> Tensor:
        """Logits [B, V] after one more token of each sequence, which enters `cache`."""
        ...


def decoder_for(model: Transformer) -> Decoder:
    """The fastest way to decode `model` here; ask again whenever its weights have changed."""
    return packed(model) or model
