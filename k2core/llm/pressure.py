"""Back-pressure: fewer requests in flight while a server says that it has too many, as TCP does it (RFC 5681 §3.1)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Pressure:
    """At most `most` requests in flight: halved when the server is overloaded, one more per round of good answers.

    None is sent before the time at which the server wants to be asked again.

    `answers` counts what the server answered.
    """

    def __init__(self, most: int) -> None:
        self._most, self._limit = most, float(most)
        self._in_flight = self._halvings = 0
        self._opens = 0.0
        self.answers = 0
        self._free = threading.Condition()

    @property
    def limit(self) -> int:
        """Requests that may be in flight now."""
        return int(self._limit)

    @property
    def closed(self) -> bool:
        """Whether the server wants to be left alone now."""
        return self._opens > time.monotonic()

    @contextmanager
    def slot(self) -> Iterator[int]:
        """Wait for a place and hold it; gives the number that `overloaded` takes."""
        with self._free:
            while (closed := self._opens - time.monotonic()) > 0 or self._in_flight >= self.limit:
                self._free.wait(closed if closed > 0 else None)
            self._in_flight += 1
            halvings = self._halvings
        try:
            yield halvings
        finally:
            with self._free:
                self._in_flight -= 1
                self._free.notify_all()

    def overloaded(self, halvings: int, wait: float = 0.0) -> None:
        """The server refused a request for lack of room, and wants to be left alone for `wait` seconds.

        Requests sent before the last halving do not count again.
        """
        with self._free:
            self._opens = max(self._opens, time.monotonic() + wait)
            if halvings == self._halvings:
                self._limit = max(1.0, self._limit / 2)
                self._halvings += 1

    def answered(self) -> None:
        """The server answered."""
        with self._free:
            self.answers += 1
            self._limit = min(float(self._most), self._limit + 1 / self._limit)
            self._free.notify_all()
