"""What a model thinks aloud before it answers: no part of the answer."""

from __future__ import annotations

import re

_TAG = re.compile(r"</?think(?:ing)?>|◁/?think▷", re.IGNORECASE)


def has_reasoning(text: str) -> bool:
    """Whether `text` contains a tag of reasoning."""
    return _TAG.search(text) is not None


def without_reasoning(text: str) -> str | None:
    """`text` without what is between tags of reasoning; None where one is left open.

    A chat template may write the opening tag itself: before a closing one alone, all is reasoning.
    """
    said: list[str] = []
    depth, start = 0, 0
    for tag in _TAG.finditer(text):
        if not depth:
            said.append(text[start : tag.start()])
        if "/" not in tag[0]:
            depth += 1
        elif depth:
            depth -= 1
        else:
            said.clear()
        start = tag.end()
    return None if depth else ("".join(said) + text[start:]).strip() if start else text
