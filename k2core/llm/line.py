"""The line to a server: one deadline for the whole of a request, and a limit to the length of its answer.

The time-outs of HTTP clients count from one byte to the next: a server that sends a blank now and then is never late.
Here the clock of an event loop ends the request, whatever its state.
"""

from __future__ import annotations

import asyncio
import re
import threading
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from k2core.llm.reply import UnusableReply

BYTES_PER_TOKEN = 1024
"""Most bytes per token of an answer, with all that a server writes beside it."""
LEAST = 2**20
"""Bytes that any answer may have, however few its tokens."""
MOST_SAID = 2**14
"""Most bytes that are read of a refusal."""


class Refusal(Exception):
    """A status other than success.

    Attributes:
        said: what the server said about it, in one line.
        wait: seconds after which the server wants to be asked again; None if it names no time.
    """

    def __init__(self, status: int, said: str, wait: float | None) -> None:
        super().__init__(f"HTTP status {status}: {said}")
        self.status, self.said, self.wait = status, said, wait


class Line:
    """Connections to one server, used by any number of threads.

    Args:
        address: the base URL, e.g. ``http://host:8000/v1``.
        key: the API key. If the server repeats it, it is masked.
        seconds: how long a request may take, from the first byte sent to the last one received.
        proxies: whether the proxies of the environment are used.

    Raises:
        ValueError, ImportError: a proxy is set that httpx cannot use.
    """

    def __init__(self, address: str, key: str, seconds: float, proxies: bool = True) -> None:
        import httpx

        self.address, self.seconds = f"{address.rstrip('/')}/chat/completions", seconds
        self._key = _in_json(key) if key else None
        # A few compressed bytes could become any number.
        headers = {"accept-encoding": "identity"} | ({"authorization": f"Bearer {key}"} if key else {})
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=None,
            follow_redirects=False,  # it could lead to another server, and httpx reads the body of a redirect whole
            limits=httpx.Limits(max_keepalive_connections=None),
            trust_env=proxies,
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llm", daemon=True)
        self._thread.start()

    def ask(self, body: dict[str, Any]) -> bytes:
        """The body of a successful answer.

        Raises:
            Refusal: any other status.
            UnusableReply: the answer is longer than `max_tokens` of `body` can be, or compressed.
            TimeoutError: it was not there in time.
            httpx.TransportError: there is no connection, or it broke.
        """
        return asyncio.run_coroutine_threadsafe(self._ask(body), self._loop).result()

    async def _ask(self, body: dict[str, Any]) -> bytes:
        import httpx

        content, most = bytearray(), LEAST + BYTES_PER_TOKEN * body["max_tokens"]
        try:
            async with (
                asyncio.timeout(self.seconds),
                self._client.stream("POST", self.address, json=body) as response,
            ):
                async for chunk in response.aiter_raw():
                    content += chunk
                    if len(content) > (most if response.is_success else MOST_SAID):
                        break
        except httpx.TransportError as error:  # whose text may quote what the server sent
            raise type(error)(self._masked(str(error).encode()).decode()) from None
        if response.has_redirect_location:
            place = self._masked(response.headers["location"].encode()).decode()
            raise Refusal(response.status_code, f"it redirects to {place[:300]}", None)
        said = self._masked(bytes(content))
        if not response.is_success:
            text = " ".join(said[:MOST_SAID].decode(errors="replace").split())[:300]
            raise Refusal(response.status_code, text, _wait(response.headers.get("retry-after", "")))
        if len(content) > most:
            raise UnusableReply(f"more than {most:,} bytes for {body['max_tokens']:,} tokens")
        if response.headers.get("content-encoding", "identity") != "identity":
            raise UnusableReply("compressed, though it was asked not to be")
        return said

    def _masked(self, said: bytes) -> bytes:
        """What the server said, without our key."""
        return self._key.sub(b"***", said) if self._key else said

    def close(self) -> None:
        """Close all connections."""
        asyncio.run_coroutine_threadsafe(self._client.aclose(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _in_json(key: str) -> re.Pattern[bytes]:
    """What matches `key` as it is, and in all ways in which JSON may write it: ``/`` as ``\\/`` or ``\\u002f``."""

    def ways(character: str) -> str:
        slash = r"|\\/" if character == "/" else ""
        return rf"(?:{re.escape(character)}|\\u(?i:{ord(character):04x}){slash})"

    return re.compile("".join(map(ways, key)).encode())


def _wait(wish: str) -> float | None:
    """The seconds of a header `Retry-After`: a number, or a date (RFC 9110 §10.2.3); None if it is neither."""
    if wish.isascii() and wish.isdigit():
        return float(wish[:9])
    try:
        date = parsedate_to_datetime(wish)
        return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):  # no date, or one out of all bounds
        return None
