"""Connections to this machine never use a proxy, whatever the environment says."""

from __future__ import annotations

import os

LOOPBACK = ("localhost", "127.0.0.1", "::1")
_NAMES = ("no_proxy", "NO_PROXY")
"""Python reads the first, many other programs the second."""
_KEPT = "K2_NO_PROXY"
"""What the user has set, while this process uses no proxy at all: the stages that it starts may need one."""


def spare_loopback() -> None:
    """Have this process, and those that it starts, reach servers on this machine directly."""
    stated = os.environ.pop(_KEPT, None)
    if stated is None:
        stated = next((os.environ[name] for name in _NAMES if os.environ.get(name)), "")
    hosts = dict.fromkeys([*(host.strip() for host in stated.split(",") if host.strip()), *LOOPBACK])
    _set("*" if "*" in hosts else ",".join(hosts))


def spare_all() -> None:
    """Have this process use no proxy, if httpx cannot make a client with those that are set (SOCKS without `socksio`).

    httpx sets up every proxy, even those it would never use. This is for processes that talk only to servers on
    this machine; the others that they start call `spare_loopback`, which undoes it.
    """
    import httpx

    try:
        httpx.Client().close()
    except (ImportError, ValueError):
        os.environ[_KEPT] = os.environ.get(_NAMES[0], "")
        _set("*")


def is_loopback(address: str) -> bool:
    """Whether a URL names this machine."""
    from urllib.parse import urlsplit

    return (urlsplit(address).hostname or "") in LOOPBACK


def _set(value: str) -> None:
    for name in _NAMES:
        os.environ[name] = value
