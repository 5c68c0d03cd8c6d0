"""A function over many items in threads, with no more items taken than there are threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from tqdm import tqdm

I = TypeVar("I")
R = TypeVar("R")


def map_threads(function: Callable[[I], R], items: Iterable[I], threads: int, bar: tqdm | None) -> list[R]:
    """`function` of each item, in the order of `items`, `threads` at a time; `bar` counts results.

    The first exception, of `function` or of `items`, is raised when the calls under way have ended; no item is taken
    after it.
    """
    todo, results = enumerate(items), dict[int, R]()
    lock, stop = threading.Lock(), threading.Event()

    def work() -> None:
        while not stop.is_set():
            with lock:
                if (following := next(todo, None)) is None:
                    return
            place, item = following
            result = function(item)
            with lock:
                results[place] = result
                if bar is not None:
                    bar.update()

    def work_or_stop() -> None:
        try:
            work()
        except BaseException:
            stop.set()
            raise

    with ThreadPoolExecutor(threads) as pool:
        try:
            for future in as_completed([pool.submit(work_or_stop) for _ in range(threads)]):
                future.result()
        finally:
            stop.set()  # an interrupt reaches the main thread alone
    return [results[place] for place in range(len(results))]
