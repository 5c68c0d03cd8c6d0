"""What a shard sets aside, as entries of a file: the first ones of each reason, and how many there are beside them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

from k2core.corpus.sources.shard import Fault

MOST = 1000
"""Entries of a shard with the same reason; a small compressed file can have millions of faulty rows."""


class SetAside:
    """The faults of one shard.

    Args:
        write: takes each entry, a line of JSON: source, shard, row, reason, detail. The last of a reason that has more
            than `MOST` says in `more` how many it stands for.
    """

    def __init__(self, source: str, shard: str, write: Callable[[str], object]) -> None:
        self.counts: Counter[str] = Counter()
        self._about, self._write = {"source": source, "shard": shard}, write

    def add(self, fault: Fault) -> None:
        """Write a fault, or count it."""
        self.counts[fault.reason] += 1
        if self.counts[fault.reason] <= MOST:
            self._entry(**vars(fault))

    def close(self) -> None:
        """Say what was only counted."""
        for reason, count in sorted(self.counts.items()):
            if more := max(0, count - MOST):
                self._entry(row=None, reason=reason, detail=f"{more:,} more rows of this shard", more=more)

    def _entry(self, **entry: str | int | None) -> None:
        self._write(json.dumps({**self._about, **entry}, ensure_ascii=False) + "\n")
