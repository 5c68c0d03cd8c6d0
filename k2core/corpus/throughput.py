"""How fast a step goes: printed on the console, never a figure (figures depend on inputs and parameters alone)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Pace:
    """Documents and characters that a step has read, and the seconds it took."""

    documents: int = 0
    characters: int = 0
    seconds: float = 0.0

    def add(self, documents: int, characters: int, seconds: float) -> None:
        self.documents, self.characters, self.seconds = (
            self.documents + documents, self.characters + characters, self.seconds + seconds,
        )  # fmt: skip

    def __str__(self) -> str:
        """`1,234 documents/s, 5.6 MB/s (7.8 s)`; a megabyte is a million characters."""
        seconds = max(self.seconds, 1e-9)
        each, size = self.documents / seconds, self.characters / seconds / 1e6
        return f"{each:,.0f} documents/s, {size:.1f} MB/s ({self.seconds:.1f} s)"
