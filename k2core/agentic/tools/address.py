"""An MCP server by address: its key goes to it alone, and no answer is longer than what memory has room for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import httpx2

MOST_BYTES = 16 * 2**20
"""Of an answer; the `mcp` library itself bounds each event of a stream of them."""


@asynccontextmanager
async def connected(address: str, sse: bool, key: str, seconds: float) -> AsyncIterator[Any]:
    """The streams of an `mcp.Client`. The library follows redirects within the server alone, so its key stays there.

    Args:
        sse: whether the server speaks the older HTTP with server-sent events.
        key: a bearer token; empty where the server wants none.
        seconds: that the older HTTP may take for each answer.
    """
    from mcp.client.sse import sse_client
    from mcp.client.streamable_http import streamable_http_client
    from mcp.shared._httpx_utils import create_mcp_http_client

    def client(headers: Any = None, timeout: Any = None, auth: Any = None) -> httpx2.AsyncClient:
        # A few compressed bytes could become any number.
        headers = {"accept-encoding": "identity"} | ({"authorization": f"Bearer {key}"} if key else {})
        made = create_mcp_http_client(headers, timeout, auth)
        made.event_hooks = {"response": [_bound]}
        return made

    if sse:
        async with sse_client(address, None, seconds, seconds, client) as streams:
            yield streams
    else:
        async with client() as http, streamable_http_client(address, http_client=http) as streams:
            yield streams


async def _bound(response: httpx2.Response) -> None:
    """Have the body of `response` end in an error where it is too long.

    Raises:
        httpx2.DecodingError: it is compressed.
    """
    import httpx2

    class Bounded(httpx2.AsyncByteStream):
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            left = MOST_BYTES
            async for chunk in self.stream:
                left -= len(chunk)
                if left < 0:
                    raise httpx2.ReadError(f"the answer has more than {MOST_BYTES:,} bytes")
                yield chunk

        async def aclose(self) -> None:
            await self.stream.aclose()

    if response.headers.get("content-encoding", "identity") != "identity":
        raise httpx2.DecodingError("the answer is compressed, which was not asked for")
    if not response.headers.get("content-type", "").startswith("text/event-stream"):
        response.stream = Bounded(response.stream)
