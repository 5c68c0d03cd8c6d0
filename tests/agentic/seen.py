"""What an agent says that nobody told it."""

from __future__ import annotations

import json
import re
from typing import Any

from k2core.agentic.dialogues.oracle import words

_WORD = re.compile(r"[^\W\d_]+|\d+")


def words_of(value: Any) -> set[str]:
    """The words and numbers of a text, or of all keys and leaves of an object."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return set(_WORD.findall(text.lower()))


def unseen(messages: list[dict[str, Any]], tools: list[dict[str, Any]], known: str = "") -> set[str]:
    """Words of the agent's messages and arguments that stand in no earlier message, no declaration, no template.

    Args:
        known: more words that the agent may use.
    """
    seen = words_of(tools) | words_of(words()) | words_of(known) | {"and"}  # which stands between listed values
    found: set[str] = set()
    for message in messages:
        said = words_of(message["content"])
        if message["role"] == "assistant":
            for call in message.get("tool_calls", []):
                said |= words_of(json.loads(call["function"]["arguments"]))
            found |= said - seen
        seen |= said
    return found
