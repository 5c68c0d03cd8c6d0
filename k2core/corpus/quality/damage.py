"""Texts damaged on purpose: what any judge of quality must tell from the intact text."""

from __future__ import annotations

from random import Random

KINDS = ("shuffled", "boilerplate", "truncated")
_BOILERPLATE = (
    "Home | About us | Contact | Log in | Register",
    "We use cookies to improve your experience. Accept all | Manage preferences",
    "Subscribe to our newsletter and get 20% off your first order!",
    "Share this page: Facebook Twitter LinkedIn E-mail",
    "Click here to read more. Related articles: 1 2 3 4 5 Next page",
    "All rights reserved. Terms of service. Privacy policy. Sitemap.",
)
_KEPT = 0.3
"""Share of a text that is left between the boilerplate, or before it breaks off inside a word."""


def damage(text: str, kind: str, seed: str) -> str:
    """`text` with its words in another order, mostly replaced by a page's furniture, or cut off within a word."""
    random = Random(f"damage/{seed}")
    if kind == "shuffled":
        words = text.split()
        random.shuffle(words)
        return " ".join(words)
    torn = text[: max(2, int(_KEPT * len(text)))].rstrip()
    if kind == "truncated":
        return torn[:-1] if torn[-1:] in ".!?" else torn
    lines = list(_BOILERPLATE)
    random.shuffle(lines)
    return "\n".join([*lines[:3], torn, *lines[3:]])
