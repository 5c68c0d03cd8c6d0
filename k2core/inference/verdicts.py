"""What environments are asked, several at once and each for a limited time: answers to responses, and rewards.

A call that raises or does not end gives its reason instead of a result. What stops a stage (no sandbox, no judge, a
file that is missing) is raised: it is no verdict on a response.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from k2core.recipe import RecipeError
from k2core.stage import StageError
from k2core.storage import StorageError
from k2core.storage.foreign import one_line

T = TypeVar("T")
SECONDS = 300.0
"""Longest time for one call; environments whose code could take long have shorter limits of their own."""
AT_ONCE = max(4, os.cpu_count() or 1)
STOPPING = (StageError, StorageError, RecipeError, ConnectionError, MemoryError)
REASON = 300
"""Most characters of a reason."""


@dataclass(frozen=True)
class Failed:
    """A call without a result, and why."""

    reason: str


def each_apart(calls: Sequence[Callable[[], T]]) -> list[T | Failed]:
    """The results of `calls`, in order. A call that does not end keeps its thread, which nobody waits for.

    Raises:
        One of `STOPPING`, if a call raises it.
    """
    ended: queue.SimpleQueue[tuple[int, T | Failed | BaseException]] = queue.SimpleQueue()
    waiting, running = deque(range(len(calls))), dict[int, float]()

    def work() -> None:
        while True:
            try:
                number = waiting.popleft()
            except IndexError:
                return
            running[number] = time.monotonic()
            try:
                ended.put((number, calls[number]()))
            except STOPPING as error:
                ended.put((number, error))
            except Exception as error:  # noqa: BLE001 (whatever an environment does with a response)
                ended.put((number, Failed(f"{type(error).__name__}: {one_line(error)}"[:REASON])))

    def start() -> None:
        threading.Thread(target=work, name="verdicts", daemon=True).start()

    results: list[T | Failed | None] = [None] * len(calls)
    for _ in range(min(AT_ONCE, len(calls))):
        start()
    left, late = len(calls), set[int]()
    while left:
        began = min(list(running.values()), default=time.monotonic())
        try:
            number, result = ended.get(timeout=max(0.0, began + SECONDS - time.monotonic()))
        except queue.Empty:
            for number, since in list(running.items()):
                if time.monotonic() - since >= SECONDS:
                    results[number] = Failed(f"no verdict within {SECONDS:g} s")
                    del running[number]
                    late.add(number)
                    left -= 1
                    start()  # in place of the thread that hangs
            continue
        if isinstance(result, BaseException):
            waiting.clear()
            raise result
        if number not in late:
            results[number] = result
            del running[number]
            left -= 1
    return results  # type: ignore[return-value]  # each has its own by now
