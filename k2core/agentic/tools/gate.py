"""Which tools of the catalogue survive, in which order they are made, and how they cover their categories."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import zip_longest
from random import Random
from typing import Any

from k2core.agentic.catalogue.entries import Entry, catalogue
from k2core.agentic.tools.grammar import READS, Draft, Rules, World
from k2core.agentic.tools.simulator import Simulator, state_hash
from k2core.agentic.tools.specs import ToolSpec
from k2core.chat.parser import ToolCall, schema_fault

MAX_WORDS = 5
VARIANTS = 60
"""Variants of a domain that an LLM is asked about."""
NAME = re.compile(r"[a-z][a-z0-9_]*")
SAME = {"create": "add", "search": "find"}
SMALL = {"by", "of", "the", "all"}
COLUMNS = {
    "create": ("create", "import", "copy"), "read": ("get", "read", "read_many", "exists", "export", "length"),
    "find": ("find", "search"), "measure": ("count", "groups", "distinct", "measure"),
    "change": ("update", "update_many", "adjust", "item", "shift", "clear", "rename"),
    "delete": ("delete", "delete_many", "purge"), "others' own": (),
}  # fmt: skip
"""Kinds of operation by column of the coverage; the last is for tools of servers and of the folder of declarations."""


class Gate:
    """Lets a tool in once, if its name is sensible, it is like no other, and its operation is proved."""

    def __init__(self, taken: Collection[str]) -> None:
        self.names, self.seen = set(taken), set[Any]()

    def refusal(self, draft: Draft, world: dict[str, dict[str, Any]]) -> str:
        """Why the tool may not survive; empty if it may.

        Near-duplicates are tools of the same kind whose names have the same words in any order, synonyms and plurals
        apart; or that have the same description and parameters.
        """
        tool, kind = draft.tool, draft.tool.semantics["kind"]
        words = tool.name.split("_")
        stems = [_stem(word) for word in words]
        if not NAME.fullmatch(tool.name) or len(words) > MAX_WORDS:
            return "name too long"
        if len(set(stems)) < len(stems):
            return "word twice"
        if tool.name in self.names:
            return "name taken"
        form = (kind, frozenset(SAME.get(stem, stem) for stem in stems) - SMALL)
        content = json.dumps([tool.description, tool.parameters], sort_keys=True)
        if form in self.seen or content in self.seen:
            return "near duplicate"
        if schema_fault(tool.parameters):
            return "schema"
        if not proved(draft, world):
            return "not executable"
        self.names.add(tool.name)
        self.seen |= {form, content}
        return ""


def from_catalogue(
    count: int, seed: int, taken: Collection[str], proposed: Sequence[Entry] = (), sensible: Collection[str] = ()
) -> tuple[list[ToolSpec], Counter[str]]:
    """At most `count` tools, each domain's turn in turn, and how often the gate refused, by reason.

    Args:
        taken: names that other tools have.
        proposed: domains beside the project's own; of their variants those survive whose names are `sensible`.
    """
    gate, refused, tools = Gate(taken), Counter[str](), list[ToolSpec]()
    entries = [*proposed, *catalogue()] if count else []
    drafts = [drafts_of(entry, seed) for entry in entries]
    read_again = {entry.plural for entry in proposed}
    worlds = [_world(entry) for entry in entries]
    for turn in zip_longest(*drafts):
        for draft, world in zip(turn, worlds, strict=True):
            if len(tools) == count:
                return tools, refused
            if draft is None:
                continue
            tool = draft.tool
            if tool.domain in read_again and tool.semantics["parent"] and tool.name not in sensible:
                refused["not sensible"] += 1
            elif reason := gate.refusal(draft, world):
                refused[reason] += 1
            else:
                tools.append(draft.tool)
    return tools, refused


def drafts_of(entry: Entry, seed: int) -> Iterator[Draft]:
    """The tools of a domain: the plain ones, then their variants, then those of the variants, in random order."""
    random, rules = Random(f"{seed}/catalogue/{entry.plural}"), Rules(entry)
    yield from rules.plain()
    for drafts in (list(rules.variants()), list(rules.narrower())):
        yield from random.sample(drafts, len(drafts))


def variants_of(entry: Entry, seed: int) -> list[str]:
    """Names of the first `VARIANTS` variants of a domain's tools, in the order in which they are made."""
    names = [draft.tool.name for draft in drafts_of(entry, seed) if draft.tool.semantics["parent"]]
    return names[:VARIANTS]


def _world(entry: Entry) -> dict[str, dict[str, Any]]:
    """Two records in each state, with every field; what is true or false is each once."""
    random, table = Random(f"gate/{entry.plural}"), {}
    for number, state in enumerate(sorted(entry.states * 2)):
        key, record = entry.record(random, state)
        table[key] = record | {n: number % 2 == 0 for n, f in entry.fields.items() if f.form == "boolean"}
    return table


def proved(draft: Draft, table: dict[str, dict[str, Any]]) -> bool:
    """Whether right calls work, with all parameters and with the needed ones, and wrong ones do not.

    A tool that reads leaves the world as it is, one that writes does not. Wrong are a call that lacks a needed
    parameter, one with an unknown parameter, and one about a key that is not there.
    """
    tool, operation = draft.tool, draft.tool.semantics
    random = Random(f"gate/{tool.name}")
    key = next((key for key, record in table.items() if draft.suits(record)), None)
    if key is None:
        return False
    right = {name: draw(World(table, key, random)) for name, draw in draft.draws.items()}
    needed = tool.parameters["required"]

    before = state_hash({operation["entity"]: table})

    def call(arguments: dict[str, Any]) -> tuple[bool, bool]:
        world = Simulator({tool.name: tool}, {operation["entity"]: table})
        try:
            outcome = world.execute(ToolCall(f"functions.{tool.name}:0", tool.name, json.dumps(arguments)))
        except (KeyError, TypeError, ValueError):  # the operation and the schema do not belong together
            return False, False
        return outcome.valid and "error" not in outcome.result, outcome.state != before

    if call(right) != (True, operation["kind"] not in READS):
        return False
    if not call({name: right[name] for name in needed})[0] or call(right | {"no_such": 1})[0]:
        return False
    wrong = [{n: v for n, v in right.items() if n != name} for name in needed]
    if operation["key"] in right and operation["kind"] not in ("create", "exists"):
        wrong.append(right | {operation["key"]: "nothing of the kind"})
    return not any(call(arguments)[0] for arguments in wrong)


def _stem(word: str) -> str:
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def coverage(tools: Sequence[ToolSpec]) -> str:
    """A table in Markdown: tools by category and kind of operation."""
    column = {kind: name for name, kinds in COLUMNS.items() for kind in kinds}
    counts: dict[str, Counter[str]] = {}
    for tool in tools:
        kind = tool.operation["kind"] if tool.operation else ""
        counts.setdefault(tool.category, Counter())[column.get(kind, "others' own")] += 1
    counts["all"] = sum(counts.values(), Counter())
    rows = [
        f"| {name} | {sum(row.values())} | {' | '.join(str(row[c]) for c in COLUMNS)} |" for name, row in counts.items()
    ]
    return (
        "\n".join([f"| category | tools | {' | '.join(COLUMNS)} |", "|---|" + "---:|" * (1 + len(COLUMNS)), *rows])
        + "\n"
    )
