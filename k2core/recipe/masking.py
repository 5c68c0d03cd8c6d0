"""Passwords in addresses: a recipe with one is refused, and they are taken out of whatever is written down."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

_LOGIN = re.compile(r"""(?<=://)(?:[^\s/?#"'<>\\]*@|[^\s/?#@:"'<>\\]{1,100}:(?!\d{1,5}(?:[/?#]))[^\s@"<>\\]{0,200}@)""")
"""A password may hold ``/``, as AWS's do; what looks like a port and a path is none."""
_QUERY = re.compile(
    r"""([?&#;](?:sig|[\w.-]{0,40}(?:key|token|secret|passw(?:or)?d|pwd|auth(?!or)|signature|credential)[\w.-]{0,40})=)"""
    r"""[^\s&#;"'<>\\]+""",
    re.I,
)
_WORDS = {
    "base_url": "put the server's key into an environment variable and name it in llm.api_key_variable",
    "s3": "put it into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "hf": "put it into HF_TOKEN",
    "http": "put it into FSSPEC_HTTP, as a header (docs/own-data.md)",
}
"""Where a password belongs, by the key that holds the address, else by its scheme."""


def mask(text: str) -> str:
    """`text` with the logins of all addresses taken out (``http://me:secret@host`` → ``http://host``).

    Keys and signatures in their queries become ``***``. Linear in the length of `text`.
    """
    return _QUERY.sub(r"\1***", _LOGIN.sub("", text))


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
    elif isinstance(value, str) and "://" in value and mask(value) != value:
        scheme = value.partition("://")[0].lower()
        advice = _WORDS.get(where.rpartition(".")[2]) or next(
            (words for name, words in _WORDS.items() if scheme.startswith(name)), "put it into an environment variable"
        )
        yield f"{where}: the address holds a password, which would be stored with every run; take it out and {advice}"
