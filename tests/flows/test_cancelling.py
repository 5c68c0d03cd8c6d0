"""A run that no worker watches over asks the server whether it is to be cancelled, and ends itself once."""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from prefect.states import Cancelling

from flows import cancelling


class Server:
    """Prefect's, for which every run is to be cancelled."""

    asked = 0

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        return

    def read_flow_run(self, run: uuid.UUID) -> SimpleNamespace:
        Server.asked += 1
        return SimpleNamespace(state=Cancelling())


class Signalled(BaseException):
    """SIGTERM came."""


@pytest.fixture(autouse=True)
def cancelled_on_the_page(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def come(*_: object) -> None:
        raise Signalled

    monkeypatch.setattr(cancelling, "get_client", lambda **_: Server())
    monkeypatch.setattr(cancelling, "ASK_SECONDS", 0.01)
    before = signal.signal(signal.SIGTERM, come)
    yield
    signal.signal(signal.SIGTERM, before)


def test_it_ends_itself_and_knows_that_the_page_asked() -> None:
    obeyed = threading.Event()
    with pytest.raises(Signalled), cancelling.obey(uuid.uuid4(), lambda: False, obeyed):
        time.sleep(10)
    assert obeyed.is_set()


def test_a_run_that_is_ending_is_not_interrupted() -> None:
    """A worker was quicker; ending the stages takes longer than the page is asked."""
    obeyed, ending = threading.Event(), False
    with cancelling.obey(uuid.uuid4(), lambda: ending, obeyed):
        ending = True
        asked = Server.asked
        time.sleep(0.2)
    assert not obeyed.is_set() and Server.asked <= asked + 1
