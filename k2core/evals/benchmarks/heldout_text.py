"""Bits per byte of held-out text.

| name | what | interval |
|---|---|---|
| `heldout/bits_per_byte[/DOMAIN]` | held-out text | none: one pass over fixed tokens |
"""

from __future__ import annotations

from k2core.evals.subject import Measured, Subject
from k2core.training.heldout import bits_per_byte, figure_names


def measure(subject: Subject) -> Measured:
    """Score the whole held-out split in windows of `context` tokens."""
    bits = bits_per_byte(subject.model.on_cpu, subject.tokens, context=subject.settings.context)
    return Measured({key: {"value": value} for key, value in figure_names(bits).items()})
