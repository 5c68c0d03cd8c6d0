"""Who may use the servers of `make ui`: the workspace's owner, from their own pages, and nobody else.

Anybody on the machine can connect to a port of 127.0.0.1, and any web page can make a browser do so. Each server has a
secret, which lies in a file that only the owner can read. The link that `make ui` prints carries it to the browser
behind the `#`, a part of an address that browsers send to no server and servers write into no log.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import quote

from flows.settings import ROOT

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = "/open"
HOSTS = ("127.0.0.1", "localhost")
PAGE = """<!doctype html><meta charset="utf-8"><title>Opening</title><script>
const [, word, page] = location.hash.match(/^#([^,]*),?(.*)$/)
const secret = decodeURIComponent(word)
fetch("/open", {method: "POST", body: secret}).then(async answer => {
    if (!answer.ok) return void (document.body.textContent = await answer.text())
    {keep}
    location.replace(location.origin + "/" + page)
})
</script><body></body>"""
"""Shows the server the secret of its own address, then goes to the page that the address names after it. A wrong secret
changes nothing: whoever makes the owner follow a link does not lock them out."""
IN_PREFECT = 'localStorage.setItem("prefect-password", btoa(secret))'
"""Where Prefect's pages have what a person types into their form of the same purpose."""
HEADERS = [
    (b"content-type", b"text/html; charset=utf-8"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'unsafe-inline'; connect-src 'self'; frame-ancestors 'none'",
    ),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


def secret(name: str, root: Path = ROOT) -> str:
    """The secret of the server `name`, made at its first use: `work/secrets/NAME`, readable only by its owner."""
    path = root / "work" / "secrets" / name
    path.parent.parent.mkdir(exist_ok=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if not path.exists():
        scratch = path.with_name(f"{name}.{os.getpid()}")
        with open(scratch, "x", opener=lambda file, flags: os.open(file, flags, 0o600)) as file:
            file.write(secrets.token_urlsafe(32))
        with contextlib.suppress(FileExistsError):  # another process was quicker; its secret counts
            os.link(scratch, path)
        scratch.unlink()
    return path.read_text()


def prefect_login() -> str:
    """What Prefect's server wants from its clients, `user:password`."""
    return f"k2:{secret('prefect')}"


def link(server: str, word: str, page: str) -> str:
    """The address that opens `page` (a path without its first slash) in the owner's browser.

    Args:
        server: e.g. ``http://127.0.0.1:4200``.
        word: the server's secret.
    """
    return f"{server}{OPEN}#{quote(word, safe=':')},{page}"


class Guard:
    """An ASGI application behind this one answers only its own host and its own pages.

    A `Host` that is not this machine is a name that somebody else made to point here (DNS rebinding). An `Origin` that
    is not this server is a page of somebody else, also one that another user serves on this machine.

    Args:
        word: the secret. The browser must show it as a cookie, which the link sets and no script can read.
        keep: the script by which the page of the link stores the secret, if the application asks for it by itself, as
            Prefect does; there is no cookie then.
    """

    def __init__(self, app: App, word: str, keep: str = "") -> None:
        self.app, self.word, self.keep = app, word, keep

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        port = scope["server"][1]
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        ours = [f"{host}:{port}" for host in HOSTS]
        if headers.get(b"host") not in ours:
            await _refuse(scope, send, 421, f"This server is {ours[0]} and has no other name.")
        elif _from_elsewhere(headers, [f"http://{host}" for host in ours]):
            await _refuse(scope, send, 403, "This server answers no pages but its own.")
        elif scope["type"] == "http" and scope["path"] == OPEN:
            await self._open(scope, receive, send, port)
        elif not self.keep and not self._right(_shown(headers, port).encode()):
            await _refuse(scope, send, 401, "Open the link that `make ui` has printed; it lets this browser in.")
        else:
            await self.app(scope, receive, _unframed(send))

    async def _open(self, scope: Scope, receive: Receive, send: Send, port: int) -> None:
        """The page of the link; what it posts is the secret, which a browser then keeps."""
        if scope["method"] != "POST":
            await _answer(send, 200, PAGE.replace("{keep}", self.keep))
        elif not self._right(await _body(receive)):
            await _answer(send, 401, "This link is not, or no longer, this server's. `make ui` prints the right one.")
        else:
            cookie = f"{_cookie(port)}={self.word}; Path=/; HttpOnly; SameSite=Strict"
            await _answer(send, 200, "", *[] if self.keep else [(b"set-cookie", cookie.encode())])

    def _right(self, shown: bytes) -> bool:
        return hmac.compare_digest(shown, self.word.encode())


def _from_elsewhere(headers: dict[bytes, str], ours: list[str]) -> bool:
    """Whether somebody else's page makes this request; a link there, which shows our page alone, may be followed."""
    if headers.get(b"origin", ours[0]) not in ours:
        return True
    followed = (headers.get(b"sec-fetch-mode"), headers.get(b"sec-fetch-dest")) == ("navigate", "document")
    return headers.get(b"sec-fetch-site", "none") not in ("none", "same-origin") and not followed


async def _body(receive: Receive) -> bytes:
    """The body of a request; what is longer than any secret counts as none."""
    content = b""
    while len(content) < 1000:
        message = await receive()
        content += message.get("body", b"")
        if not message.get("more_body"):
            return content
    return b""


def _cookie(port: int) -> str:
    """Cookies know no ports: each server has a name of its own."""
    return f"k2-{port}"


def _shown(headers: dict[bytes, str], port: int) -> str:
    """The secret that a request shows; empty if it shows none."""
    try:
        found = SimpleCookie(headers.get(b"cookie", "")).get(_cookie(port))
    except CookieError:
        return ""
    return found.value if found else ""


def _unframed(send: Send) -> Send:
    """`send`, which tells the browser to show the page in no page of another origin: clicks there would be the owner's.

    Pages of its own may: MLflow shows artifacts such as the report in a frame.
    """

    async def with_header(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            policy = (b"content-security-policy", b"frame-ancestors 'self'")
            message = {**message, "headers": [*message.get("headers", []), policy]}
        await send(message)

    return with_header


async def _refuse(scope: Scope, send: Send, status: int, sentence: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})  # before it is accepted: HTTP status 403
    else:
        await _answer(send, status, sentence)


async def _answer(send: Send, status: int, text: str, *more: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [*HEADERS, *more]})
    await send({"type": "http.response.body", "body": text.encode()})
