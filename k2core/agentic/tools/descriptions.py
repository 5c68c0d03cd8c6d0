"""An LLM words the descriptions of evolved tools, behind a gate; what fails keeps its plain description."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from k2core.agentic.domains.taxonomy import domains
from k2core.agentic.tools.specs import ToolSpec
from k2core.storage import parse_json

if TYPE_CHECKING:
    from k2core.llm.client import LLM

LENGTH = (10, 60)
SCHEMA = {
    "type": "object", "required": ["description"],
    "properties": {"description": {"type": "string", "minLength": LENGTH[0], "maxLength": LENGTH[1] + 20}},
}  # fmt: skip
VERBS = {
    "create": {"add", "create", "register", "make", "insert", "enter", "save"},
    "get": {"get", "show", "read", "retrieve", "fetch", "find", "look", "return", "check", "view"},
    "update": {"set", "change", "update", "edit", "modify", "adjust"},
    "adjust": {"change", "update", "adjust", "modify"},
    "delete": {"delete", "remove", "erase", "drop"},
    "find": {"find", "list", "search", "show", "get", "look", "retrieve", "filter"},
}
"""First words that keep the meaning, by kind of operation; a transition's or adjustment's own verb fits too."""
SMALL_WORDS = {
    "a", "an", "the", "to", "of", "in", "on", "for", "by", "with", "from", "and", "or", "its", "it", "this", "that",
    "your", "new", "one", "all", "up", "into", "given", "specific", "based", "existing", "value", "name", "details",
    "information", "matching", "which", "have", "has", "is",
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
    """The description in the LLM's answer, if it may be used.

    It must be new, short, one line of plain words; begin with a verb of the tool's operation; name the entity once,
    and of the fields those that the plain description names; and use no word from outside, so that nothing is invented.
    """
    try:
        text = str(parse_json(answer)["description"]).strip().rstrip(".")
    except (ValueError, KeyError, TypeError):
        return None
    domain, operation = domains()[tool.domain], tool.semantics
    words, plain = re.findall(r"[a-z]+", text.lower()), re.findall(r"[a-z]+", tool.description.lower())
    if not LENGTH[0] <= len(text) <= LENGTH[1] or not re.fullmatch(r"[A-Za-z ,']+", text) or words == plain:
        return None
    verbs = VERBS[operation["kind"]] | {operation["verb"].split("_")[0]}
    names = {domain.entity, domain.plural}
    fields = {word for name in domain.fields for word in name.split("_")}
    known = SMALL_WORDS | verbs | names | fields | set(plain) | {domain.domain, operation["kind"]}
    content = [word for word in words if word not in SMALL_WORDS]
    said_once = len(content) == len(set(content)) and len(names & set(words)) == 1
    same_fields = fields & set(words) - names == fields & set(plain) - names
    return text if words[0] in verbs and said_once and same_fields and set(words) <= known else None


def _prompt(tool: ToolSpec) -> list[dict[str, str]]:
    """One worked example shows the small model the form."""
    example = [
        {"role": "user", "content": "Say it in other words: Get the title of a book"},
        {"role": "assistant", "content": '{"description": "Retrieve the title of a given book"}'},
    ]
    return [*example, {"role": "user", "content": f"Say it in other words: {tool.description}"}]
