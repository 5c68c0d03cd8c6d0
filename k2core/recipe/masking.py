"""Passwords in addresses: a recipe with one is refused, and they are taken out of whatever is written down."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_LOGIN = re.compile(
    r"""(:(?:\\?/){1,3}|(?<![:/\\\w])//)(?:[^\s/?#"'<>\\]*(?:@|%40)|"""
    r"""(?=[^\n@]{0,400}@)[^\s/?#@:"'<>\\\[]{1,100}:(?!\s|\d{1,5}(?:[/?#\s"'),.;]|$))"""
    r"""(?:[^\n@"<>\\]|\\.|"(?![,:}\]\s)]|$)){0,200}+@)"""
)
"""A password may hold ``/``, as AWS's do, spaces and quotes; what looks like a port is none, and a quote that ends a
JSON string ends it too. One slash, or slashes with the backslashes of JSON, are taken for two."""
_PLAIN_LOGIN = re.compile(
    r"""(?<![\w.+/@%-])(?!mailto:)[^\W_][\w.+%-]{0,99}:[^\s@"'<>/\\:][^\s@"'<>]{0,200}@"""
    r"""(?=[\w-]{0,100}(?:[./]|:\d{1,5}(?!\w)))"""
)
"""``user:password@host.org`` and ``user:password@host/path``: an address without its scheme."""
_QUERY = re.compile(
    r"""([?&#;](?:sig|code|pass|[\w.%-]{0,40}(?:key|token|secret|passw(?:or)?d|passphrase|pwd|auth(?!or)|signature|"""
    r"""credential)[\w.%-]{0,40})=)[^\s&#;"'<>\\]+""",
    re.I,
)
_KEY = "put the server's key into an environment variable and name it in llm.api_key_variable"
_WORDS = {
    "base_url": _KEY,
    "more_base_urls": _KEY,
    "s3": "put it into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "hf": "put it into HF_TOKEN",
    "http": "put it into FSSPEC_HTTP, as a header (docs/own-data.md)",
}
"""Where a password belongs, by the key that holds the address, else by its scheme."""


def mask(text: str) -> str:
    """`text` with the logins of all addresses taken out (``http://me:secret@host`` → ``http://host``).

    Keys and signatures in their queries become ``***``. Linear in the length of `text`.
    """
    return _QUERY.sub(r"\1***", _PLAIN_LOGIN.sub("", _LOGIN.sub(r"\1", text)))


def passwords(value: Any, where: str) -> Iterator[str]:
    """A sentence for each text in `value` whose address holds a password, which it does not repeat.

    Args:
        where: the key of `value`, e.g. ``params.yaml: llm``.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            yield from passwords(item, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from passwords(item, f"{where}.{number}")
    elif isinstance(value, str) and mask(value) != value:
        scheme = value.partition("://")[0].lower()
        key = next(part for part in reversed(where.split(".")) if not part.isdigit())
        advice = _WORDS.get(key) or next(
            (words for name, words in _WORDS.items() if scheme.startswith(name)), "put it into an environment variable"
        )
        yield f"{where}: the address holds a password, which would be stored with every run; take it out and {advice}"
