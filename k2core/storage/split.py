"""Splits by hash: what a text is about decides where it belongs, whatever else is drawn, now or later."""

from __future__ import annotations

import hashlib
from typing import Literal

Split = Literal["train", "heldout"]


def fraction_of(text: str) -> float:
    """A number in [0, 1) that depends on `text` alone, evenly spread over texts."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def split_of(key: str, heldout_share: float) -> Split:
    """The split that everything about `key` belongs to; `heldout_share` of all keys are held out."""
    return "heldout" if fraction_of(key) < heldout_share else "train"
