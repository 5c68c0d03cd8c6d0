"""Signs of personal data: counts of e-mail addresses, public IPv4 addresses, phone and card numbers.

The patterns of addresses are those of datatrove's PIIFormatter, as FineWeb uses it. Phone numbers count only where
their form is unmistakable; a run of digits alone is a number. Card numbers pass Luhn's check (ISO/IEC 7812-1).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

COLUMNS = {"emails": "int64", "ipv4": "int64", "phones": "int64", "cards": "int64", "pii": "int64"}
"""`pii` is the sum of the others."""
_EXAMPLES = re.compile(r"@(?:[\w-]+\.)*example(?:\.(?:com|org|net))?$|\.(?:invalid|test|example)$", re.IGNORECASE)
"""Names that RFC 2606 sets aside for examples."""
_PHONE = re.compile(
    r"(?<![\w.+-])(?:\+\d{1,3}[ .-](?:\(\d{1,4}\)|\d{1,4})(?:[ .-]\d{2,4}){1,4}"  # +44 20 7946 0958
    r"|\(\d{3}\) ?\d{3}[ .-]\d{4}"  # (212) 555-0123
    r"|\d{3}([.-])\d{3}\1\d{4})(?![\w-])"  # 212-555-0123
)
_CARD = re.compile(r"(?<![\w.-])[3-6]\d{3}(?:([ -]?)\d{4}\1\d{4}\1\d{4}|([ -]?)\d{6}\2\d{5})(?![\w-]|\.\d)")
_LOCAL, _HOST = 64, 255
"""Characters of an e-mail address before and behind its @ (RFC 5321)."""
_FEWEST_DIGITS, _MOST_DIGITS = 8, 15
"""Digits of an international phone number (E.164: at most 15)."""


@cache
def _addresses() -> tuple[re.Pattern[str], re.Pattern[str], Any]:
    """datatrove's pattern of e-mail addresses, cut at the @, and its finder of public IPv4 addresses."""
    from datatrove.pipeline.formatters.pii import PIIFormatter

    formatter = PIIFormatter()
    local, host = formatter.emails_replacer.regex.pattern.split("@", 1)
    return re.compile(rf"{local}\Z"), re.compile(host), formatter.ip_replacer


def attributes(text: str) -> dict[str, Any]:
    """The number of each in one text."""
    ips = _addresses()[2]
    counts = {
        "emails": sum(not _EXAMPLES.search(address) for address in _emails(text)),
        "ipv4": sum(bool(ips.validator(match[0])) for match in ips.regex.finditer(text)) if text.count(".") > 2 else 0,
        "phones": sum(_is_phone(match[0]) for match in _PHONE.finditer(text)),
        "cards": sum(passes_luhn(match[0]) for match in _CARD.finditer(text)),
    }
    return {**counts, "pii": sum(counts.values())}


def _emails(text: str) -> Iterator[str]:
    """The e-mail addresses in `text`, found around each @: from the left, the pattern takes quadratic time."""
    local, host, _ = _addresses()
    end, at = 0, text.find("@")
    while at >= 0:
        before = local.search(text, max(end, at - _LOCAL), at)
        behind = before and host.match(text, at + 1, at + 1 + _HOST)
        if before and behind:
            end = behind.end()
            yield text[before.start() : end]
        at = text.find("@", max(end, at + 1))


def passes_luhn(number: str) -> bool:
    """Whether the digits of `number` pass Luhn's check; other characters are skipped."""
    digits = [int(character) for character in number if character.isdecimal()]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return bool(digits) and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_phone(number: str) -> bool:
    return not number.startswith("+") or _FEWEST_DIGITS <= sum(map(str.isdecimal, number)) <= _MOST_DIGITS
