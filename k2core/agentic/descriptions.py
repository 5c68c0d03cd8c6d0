"""An LLM words the descriptions of evolved tools, behind a gate; what fails keeps its plain description."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from k2core.agentic.domains.taxonomy import domains
from k2core.agentic.specs import ToolSpec

if TYPE_CHECKING:
    from k2core.llm.client import LLM

LENGTH = (12, 72)
SCHEMA = {
    "type": "object", "required": ["description"],
    "properties": {"description": {"type": "string", "minLength": LENGTH[0], "maxLength": LENGTH[1]}},
}  # fmt: skip


def reword(
    llm: LLM, tools: Sequence[ToolSpec], *, max_tokens: int, temperature: float, seed: int
) -> tuple[list[ToolSpec], int]:
    """The tools with the descriptions that passed the gate; and how many did."""
    reworded, accepted = [], 0
    for tool in tools:
        text = llm.complete(_prompt(tool), max_tokens=max_tokens, temperature=temperature, seed=seed, schema=SCHEMA)
        description = fitting(tool, text)
        accepted += description is not None
        reworded.append(replace(tool, description=description) if description else tool)
    return reworded, accepted


def fitting(tool: ToolSpec, answer: str) -> str | None:
    """The description in the LLM's answer, if it may be used: one line of the right length that names what the plain
    description names (the entity, and the field if there is one)."""
    try:
        text = str(json.loads(answer)["description"]).strip().rstrip(".")
    except (ValueError, KeyError, TypeError):
        return None
    domain = domains()[tool.domain]
    words = set(re.findall(r"[a-z]+", text.lower()))
    fields = [name for name in domain.fields if name in tool.description.lower().split()]
    named = bool(words & {domain.entity, domain.plural}) and all(name in words for name in fields)
    plain = text.isascii() and text.isprintable() and '"' not in text
    return text if LENGTH[0] <= len(text) <= LENGTH[1] and named and plain else None


def _prompt(tool: ToolSpec) -> list[dict[str, str]]:
    parameters = ", ".join(tool.parameters["properties"])
    return [{"role": "user", "content": (
        f"Rewrite the description of the function {tool.name}({parameters}) as one short sentence that starts with a "
        f"verb and keeps its meaning. Old description: {tool.description}."
    )}]  # fmt: skip
