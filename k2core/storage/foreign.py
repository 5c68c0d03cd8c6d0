"""Text that others wrote (file names, servers, LLMs), made fit for a terminal and for a file."""

from __future__ import annotations

import re

MOST = 300
"""Most characters of an error that a sentence repeats."""
_RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters except tab and newline, marks of writing direction, and lone surrogates."""
_ESCAPE = re.compile(r"\\u[dD][89abAB]..\\u[dD][c-fC-F]..|(\\u[dD][89a-fA-F]..)|\\.", re.DOTALL)


def printable(text: object) -> str:
    r"""`text` for a terminal or a log: what would control it (``ESC]0;…``) is spelled out (``\x1b]0;…``)."""
    return _RAW.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def one_line(error: object) -> str:
    """The text of an error, short and printable."""
    return printable(" ".join(str(error).split()))[:MOST] or type(error).__name__


def characters(text: str) -> str:
    """`text` with U+FFFD for each lone surrogate: no file can hold one."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def whole_escapes(text: str) -> str:
    r"""JSON whose strings escape no lone surrogate: ``"\ud83d"`` becomes ``"\ufffd"``."""
    return _ESCAPE.sub(lambda found: r"\ufffd" if found[1] else found[0], text) if "\\u" in text else text
