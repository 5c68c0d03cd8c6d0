"""Back-pressure: fewer requests in flight while a server says that it has too many, as TCP does it (RFC 5681 §3.1)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Pressure:
    """At most `most` requests in flight: halved when the server is overloaded, one more a round of good answers.

    `answers` counts what the server answered.
    """

    def __init__(self, most: int) -> None:
        self._most, self._limit = most, float(most)
        self._in_flight = self._halvings = 0
        self.answers = 0
        self._free = threading.Condition()

    @property
    def limit(self) -> int:
        """Requests that may be in flight now."""
        return int(self._limit)

    @contextmanager
    def slot(self) -> Iterator[int]:
        """Wait for a place, hold it. Gives the number that `overloaded` wants."""
        with self._free:
            self._free.wait_for(lambda: self._in_flight < self.limit)
            self._in_flight += 1
            halvings = self._halvings
        try:
            yield halvings
        finally:
            with self._free:
                self._in_flight -= 1
                self._free.notify_all()

    def overloaded(self, halvings: int) -> None:
        """The server refused a request for lack of room. Requests sent before the last halving do not count again."""
        with self._free:
            if halvings == self._halvings:
                self._limit = max(1.0, self._limit / 2)
                self._halvings += 1

    def answered(self) -> None:
        """The server answered."""
        with self._free:
            self.answers += 1
            self._limit = min(float(self._most), self._limit + 1 / self._limit)
            self._free.notify_all()
