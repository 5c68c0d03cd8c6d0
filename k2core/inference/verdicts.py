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

    def work(number: int) -> None:
        try:
            ended.put((number, calls[number]()))
        except STOPPING as error:
            ended.put((number, error))
        except Exception as error:  # noqa: BLE001 (whatever an environment does with a response)
            ended.put((number, Failed(f"{type(error).__name__}: {one_line(error)}"[:REASON])))

    results: list[T | Failed] = [Failed("")] * len(calls)
    waiting, running = deque(range(len(calls))), dict[int, float]()
    while waiting or running:
        while waiting and len(running) < AT_ONCE:
            running[waiting[0]] = time.monotonic()
            threading.Thread(target=work, args=(waiting.popleft(),), name="verdict", daemon=True).start()
        try:
            number, result = ended.get(timeout=max(0.0, min(running.values()) + SECONDS - time.monotonic()))
        except queue.Empty:
            for number in [number for number, since in running.items() if time.monotonic() - since >= SECONDS]:
                results[number] = Failed(f"no verdict within {SECONDS:g} s")
                del running[number]
            continue
        if isinstance(result, BaseException):
            raise result
        if running.pop(number, None) is not None:
            results[number] = result
    return results
