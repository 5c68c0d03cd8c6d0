"""YaRN: rotary frequencies for a longer context, and the scales that go with them (arXiv 2309.00071 §3).

Equal, number for number, to what `transformers` computes for a `deepseek_v3` configuration.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from k2core.model.config import YarnConfig


def magnitude(factor: float, mscale: float) -> float:
    """YaRN's temperature correction `0.1 · mscale · ln(factor) + 1` (eq. 22)."""
    return 0.1 * mscale * math.log(factor) + 1.0


def rotary_scale(yarn: YarnConfig | None) -> float:
    """Factor on the cosines and sines; 1 where `mscale` equals `mscale_all_dim`, as in K2."""
    if yarn is None:
        return 1.0
    return magnitude(yarn.factor, yarn.mscale) / magnitude(yarn.factor, yarn.mscale_all_dim)


def logit_scale(yarn: YarnConfig | None) -> float:
    """Factor on all attention logits, beside 1/√d (DeepSeek-V2's reading of YaRN)."""
    return 1.0 if yarn is None else magnitude(yarn.factor, yarn.mscale_all_dim) ** 2


def inverse_frequencies(dim: int, theta: float, yarn: YarnConfig | None) -> Tensor:
    """Radians per position of each of the `dim / 2` rotated pairs (fp32)."""
    wavelengths = theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    kept = 1.0 / wavelengths
    if yarn is None:
        return kept
    interpolated = 1.0 / (yarn.factor * wavelengths)
    low = max(math.floor(_pair_of(yarn.beta_fast, dim, theta, yarn)), 0)
    high = min(math.ceil(_pair_of(yarn.beta_slow, dim, theta, yarn)), dim - 1)
    width = high - low if high != low else 0.001
    share = ((torch.arange(dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
    return interpolated * share + kept * (1 - share)


def _pair_of(rotations: float, dim: int, theta: float, yarn: YarnConfig) -> float:
    """The (fractional) pair that turns `rotations` times over the original context."""
    turns = yarn.original_max_position_embeddings / (rotations * 2 * math.pi)
    return dim * math.log(turns) / (2 * math.log(theta))
