"""Prefect's own command line, for a server behind `Guard`: `python -m flows.server server start`.

Its SQLite transactions wait for their turn.

Prefect begins a writing transaction as DEFERRED. If another one commits between its first read and its first write,
SQLite refuses the write at once, whatever the timeout, and the page says "Oops. Something went wrong" to a click on
Submit. It happens on a laptop that trains while its page is used. IMMEDIATE takes the lock first and waits for it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from prefect.server.database.configurations import SQLITE_BEGIN_MODE, AioSqliteConfiguration


@asynccontextmanager
async def begin_immediate(self: AioSqliteConfiguration, session: Any, with_for_update: bool = False) -> AsyncIterator:
    """As `AioSqliteConfiguration.begin_transaction`, always IMMEDIATE."""
    token = SQLITE_BEGIN_MODE.set("IMMEDIATE")
    try:
        async with session.begin() as transaction:
            yield transaction
    finally:
        SQLITE_BEGIN_MODE.reset(token)


if __name__ == "__main__":
    import prefect.server.api.server as server
    from prefect.cli import app

    from flows.access import IN_PREFECT, Guard, prefect_login

    create = server.create_app
    login = os.environ.get("PREFECT_SERVER_API_AUTH_STRING") or prefect_login()
    guarded = lambda *args, **kwargs: Guard(create(*args, **kwargs), login, IN_PREFECT)  # noqa: E731
    server.create_app = guarded  # type: ignore[assignment]
    AioSqliteConfiguration.begin_transaction = begin_immediate  # type: ignore[method-assign]
    app()
