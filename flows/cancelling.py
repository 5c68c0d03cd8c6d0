"""Lets the page's *Cancel* reach a run that no worker watches over.

A worker sends the signal to the runs that it has started. It cannot signal a run from a terminal, nor one whose worker
was killed and replaced.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType

CANCELLED = (
    "cancelled; every stage's process has ended; finished stages and checkpoints are kept, and the same command goes "
    "on from there"
)
CANCELLED_STATUS = 130
ASK_SECONDS = 5.0
ROUNDS = 4
"""Times that the page must have asked before this process ends itself: a worker, if there is one, comes first."""


def server_answers() -> bool:
    """Whether this run's Prefect server is there. Where it is not, each call of Prefect's client takes minutes."""
    with get_client(sync_client=True) as client:
        try:
            httpx.get(f"{client.api_url}/health", timeout=ASK_SECONDS)
        except httpx.HTTPError:
            return False
    return True


def end_without_server() -> NoReturn:
    """End this process, whose stages have ended: Prefect would wait for a server that nobody starts again.

    Ctrl-C at a terminal ends the temporary server, too.
    """
    print(CANCELLED, file=sys.stderr, flush=True)
    os._exit(CANCELLED_STATUS)


@contextmanager
def obey(run: UUID, is_ending: Callable[[], bool], obeyed: threading.Event) -> Iterator[None]:
    """Within the block, this process sends itself SIGTERM if the page asked to cancel flow run `run` and nobody has.

    Args:
        is_ending: whether the run is ending its stages. A signal would interrupt that, which takes a while.
        obeyed: set before the signal is sent. Then no worker tells the server how the run has ended.
    """
    over = threading.Event()

    def watch() -> None:
        asked = 0
        while not over.wait(ASK_SECONDS) and not is_ending():
            try:
                with get_client(sync_client=True) as client:
                    state = client.read_flow_run(run).state
            except httpx.HTTPError:
                continue  # the server is away; it will be asked again
            asked = asked + 1 if state and state.type == StateType.CANCELLING else 0
            if asked == ROUNDS and not is_ending():
                obeyed.set()
                os.kill(os.getpid(), signal.SIGTERM)
                return

    threading.Thread(target=watch, name="obey-the-page", daemon=True).start()
    try:
        yield
    finally:
        over.set()
