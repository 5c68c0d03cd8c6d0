"""An application served on this machine, and the browser that opens it."""

from __future__ import annotations

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FRAME = """place => new Promise(loaded => {
    const frame = document.createElement("iframe")
    frame.onload = () => loaded()
    frame.src = place
    document.body.append(frame)
})"""
"""A script: a frame of the page at `place`, loaded."""


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The address of a server of the ASGI application `app`."""
    import uvicorn

    with socket.socket() as listens:
        listens.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listens]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.02)
            yield f"http://127.0.0.1:{listens.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
