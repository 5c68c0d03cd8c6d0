"""The servers that answer for one model: which of them gets a request, and how much each is asked at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from k2core.llm.pressure import Pressure

AWAY = 10.0
"""Seconds for which a server that could not be reached gets requests only if no other one can be reached either."""


class Servers:
    """A request goes to the server with the smallest share of its places taken, of those that were reached last.

    Args:
        addresses: one or more.
        most: requests in flight at each.
    """

    def __init__(self, addresses: Sequence[str], most: int) -> None:
        self.addresses = list(addresses)
        self.pressures = [Pressure(most) for _ in addresses]
        self._taken, self._away = [0] * len(addresses), [0.0] * len(addresses)
        self._lock = threading.Lock()

    @property
    def answers(self) -> int:
        """How many requests all of them have answered."""
        return sum(pressure.answers for pressure in self.pressures)

    @contextmanager
    def chosen(self) -> Iterator[int]:
        """The number of the server that gets the request of this block."""
        with self._lock:
            now = time.monotonic()
            place = min(range(len(self._taken)), key=lambda server: self._rank(server, now))
            self._taken[place] += 1
        try:
            yield place
        finally:
            with self._lock:
                self._taken[place] -= 1

    def missed(self, place: int) -> None:
        """The server could not be reached."""
        with self._lock:
            self._away[place] = time.monotonic() + AWAY

    def _rank(self, server: int, now: float) -> tuple[bool, float]:
        pressure = self.pressures[server]
        return self._away[server] > now or pressure.closed, self._taken[server] / pressure.limit
