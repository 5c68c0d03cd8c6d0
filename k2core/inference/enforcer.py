"""The Enforcer (K2, Appendix B): constrained decoding of tool calls.

A reply is free text until `<|tool_calls_section_begin|>`. From there it follows the template: one call or more, each
`functions.NAME:INDEX` with the name of a declared tool and an index that counts the dialogue's calls, then arguments by
that tool's JSON Schema, written as `json.dumps` writes them; the section's end; the end of the turn. The template's
control tokens are stepped through here, llguidance constrains what comes between them.

The calls of a finished reply thus parse and validate, with these exceptions:

- Keywords that llguidance does not know (`not`, `uniqueItems`, `if`) are left out; where it cannot compile a schema at
  all (look-around in a pattern), any JSON object will do. Either is logged as a warning.
- A number may exceed any float (`1e999`); the parser refuses it.
- The token budget may end a reply before its call ends.
- `<|`, with which every control token begins, is never written as plain text, since a parser could not tell the two
  apart. A reply whose schema demands it ends there.

Arguments are held to what is declared: where a schema leaves it open, undeclared ones are not written.

Shapes: W words of a mask.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import llguidance
import numpy as np

from k2core.chat.declared import parameters_fault
from k2core.chat.parser import CALL_ID
from k2core.chat.special_tokens import (
    SPECIAL_TOKENS,
    TOOL_CALL_ARGUMENT_BEGIN,
    TOOL_CALL_BEGIN,
    TOOL_CALL_END,
    TOOL_CALLS_SECTION_BEGIN,
    TOOL_CALLS_SECTION_END,
)
from k2core.chat.tokenizer import Tokenizer
from k2core.inference.constraint import WORD
from k2core.stage import StageError
from k2core.storage.foreign import one_line

Schema = dict[str, Any]
BITS = (1 << np.arange(WORD, dtype=np.uint32)).view(np.int32)
ANY_OBJECT: Schema = {"type": "object"}
WRITTEN = {"item_separator": ", ", "key_separator": ": ", "whitespace_flexible": False, "lenient": True}
"""Spaces as in the template; `lenient`: a keyword that llguidance does not know is a warning, not an error."""
LEFT_OPEN = {
    "allOf", "anyOf", "oneOf", "not", "if", "$ref", "$dynamicRef", "patternProperties", "propertyNames",
    "dependentSchemas", "unevaluatedProperties", "minProperties",
}  # fmt: skip
"""Keywords beside which `additionalProperties: false` could forbid what the schema as a whole wants."""


class Enforcer:
    """Makes constraints for the prompts of one tokenizer; grammars are compiled once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        backend = json.loads(tokenizer.to_json())
        for token in backend["added_tokens"]:
            token["content"] = f"\0{token['id']}"  # llguidance reads a control token in a schema's text as that token
        self.tokenizer = llguidance.LLTokenizer(
            json.dumps(backend), n_vocab=tokenizer.vocab_size, eos_token=tokenizer.im_end_id
        )
        self.vocabulary = tokenizer.vocab_size
        control = {tokenizer.id_of(token) for token in SPECIAL_TOKENS}
        texts = {token: tokenizer.decode([token]) for token in range(self.vocabulary) if token not in control}
        self.call_begin, self.call_end = tokenizer.id_of(TOOL_CALL_BEGIN), tokenizer.id_of(TOOL_CALL_END)
        self.arguments_begin = tokenizer.id_of(TOOL_CALL_ARGUMENT_BEGIN)
        section_begin = tokenizer.id_of(TOOL_CALLS_SECTION_BEGIN)
        self.calls = self.words({section_begin})
        self.end = self.words({tokenizer.im_end_id})
        self.text = self.words({*texts, tokenizer.im_end_id})
        self.text_or_calls = self.words({*texts, tokenizer.im_end_id, section_begin})
        self.section_end = self.words({tokenizer.id_of(TOOL_CALLS_SECTION_END)})
        self.after = {
            section_begin: self.words({self.call_begin}),
            self.call_end: self.words({self.call_begin, tokenizer.id_of(TOOL_CALLS_SECTION_END)}),
            tokenizer.id_of(TOOL_CALLS_SECTION_END): self.end,
        }
        # all but those that write `<|`, alone or after a token that ends in `<`
        self.plain = ~self.words({token for token, text in texts.items() if "<|" in text})
        self.plain_after_less = self.plain & ~self.words({t for t, text in texts.items() if text.startswith("|")})
        self.less = frozenset(token for token, text in texts.items() if text.endswith("<"))
        self._schemas: dict[str, str] = {}
        self._calls: dict[str, llguidance.LLMatcher] = {}

    def constraint(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] | None, *, due: bool = False,
        single: bool = False,
    ) -> ToolCalls:  # fmt: skip
        """What the next assistant message is held to.

        Args:
            messages: the dialogue so far: its calls are counted.
            tools: declared tools, as on the wire; without any, nothing is called.
            due: whether it has to call, and says nothing else.
            single: whether it calls once at most.

        Raises:
            StageError: the template cannot carry a tool's name, or its parameters are no JSON Schema that an object
                meets.
        """
        functions = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools or ()}
        schemas = {name: self._schema(name, parameters) for name, parameters in functions.items()}
        made = sum(len(message.get("tool_calls") or ()) for message in messages)
        return ToolCalls(self, schemas, made, due, single)

    def call(self, schemas: dict[str, str], index: int) -> llguidance.LLMatcher:
        """What comes between a call's control tokens, the last of them included."""
        lines = ["%llguidance {}", "start: " + " | ".join(f"call_{number}" for number in range(len(schemas)))]
        for number, (name, schema) in enumerate(schemas.items()):
            header = json.dumps(f"functions.{name}:{index}", ensure_ascii=False)
            lines.append(f"call_{number}: {header} <[{self.arguments_begin}]> arguments_{number} <[{self.call_end}]>")
            lines.append(f"arguments_{number}: %json {schema}")
        grammar = "\n".join(lines)
        if grammar not in self._calls:
            self._calls[grammar] = llguidance.LLMatcher(self.tokenizer, grammar, log_level=0)
        return self._calls[grammar].deep_copy()

    def _schema(self, name: str, parameters: Any) -> str:
        """The schema that arguments of tool `name` are held to, as text for a grammar."""
        key = json.dumps([name, parameters])
        if key not in self._schemas:
            check_declaration(name, parameters)
            text = json.dumps(closed({"properties": {}} | parameters | ANY_OBJECT) | {"x-guidance": WRITTEN})
            failed, reasons = llguidance.LLMatcher.validate_grammar_with_warnings(
                f"%llguidance {{}}\nstart: %json {text}", self.tokenizer
            )
            if reasons:
                held = "any JSON object" if failed else "the rest of its schema"
                logging.getLogger(__name__).warning(
                    "tool %s: its arguments are held to %s (%s)", name, held, reasons[0].splitlines()[0]
                )
            self._schemas[key] = json.dumps(ANY_OBJECT | {"x-guidance": WRITTEN}) if failed else text
        return self._schemas[key]

    def words(self, tokens: set[int]) -> np.ndarray:
        """The mask of `tokens`, as `State.allow` writes it."""
        bits = np.zeros(-(-self.vocabulary // WORD) * WORD, dtype=np.uint8)
        bits[list(tokens)] = 1
        return np.packbits(bits, bitorder="little").view(np.int32)


class ToolCalls:
    """A `Constraint`: replies that may call tools of `schemas` or have to, the first call with index `first`."""

    def __init__(self, enforcer: Enforcer, schemas: dict[str, str], first: int, due: bool, single: bool) -> None:
        self.enforcer, self.schemas, self.first, self.due, self.single = enforcer, schemas, first, due, single

    def begin(self) -> Reply:
        """A reply before its first token."""
        return Reply(self.enforcer, self.schemas, self.first, self.due, self.single)


class Reply:
    """A `State`: what the template allows, and inside a call what its grammar does."""

    def __init__(self, enforcer: Enforcer, schemas: dict[str, str], first: int, due: bool, single: bool) -> None:
        self.enforcer, self.schemas, self.index = enforcer, schemas, first
        self.allowed = enforcer.calls if due else enforcer.text_or_calls if schemas else enforcer.text
        self.after = enforcer.after | ({enforcer.call_end: enforcer.section_end} if single else {})
        self.call: llguidance.LLMatcher | None = None
        self.forced: list[int] = []  # the only way the call can go on, the last token first
        self.plain = enforcer.plain

    def allow(self, words_W: np.ndarray) -> None:
        """The template's next control tokens, or what the call's grammar allows, without a plain `<|`."""
        if self.call is None:
            np.bitwise_and(self.allowed, self.plain, out=words_W)
            return
        if self.forced:
            words_W[:] = 0
            words_W[self.forced[-1] // WORD] = BITS[self.forced[-1] % WORD]
        else:
            self.call.unsafe_compute_mask_ptr(words_W.ctypes.data, words_W.nbytes)
            if np.count_nonzero(words_W) == 1:  # a name or a key, perhaps, whose tokens cost less all at once
                self.forced = self.call.compute_ff_tokens()[::-1]
                self.call.consume_tokens(self.forced[::-1])
        words_W &= self.plain
        if not np.count_nonzero(words_W):
            words_W[:] = self.enforcer.end

    def advance(self, token: int) -> None:
        """Step the call's grammar, or the template."""
        if token == self.enforcer.call_begin:
            self.call, self.index = self.enforcer.call(self.schemas, self.index), self.index + 1
        elif self.call is None or token == self.enforcer.call_end:
            self.call, self.forced, self.allowed = None, [], self.after.get(token, self.allowed)
        elif self.forced:
            self.forced.pop()
        else:
            self.call.consume_token(token)
        self.plain = self.enforcer.plain_after_less if token in self.enforcer.less else self.enforcer.plain


def check_declaration(name: str, parameters: Any) -> None:
    """Refuse what cannot declare a tool.

    Raises:
        StageError: the template cannot carry the name, or the parameters are no JSON Schema that an object meets.
    """
    matched = CALL_ID.fullmatch(f"functions.{name}:0")
    if not matched or "<|" in name:
        raise StageError(f"tool {name!r}: a name may hold neither spaces nor colons nor '<|'; rename it")
    kinds = parameters.get("type", "object") if isinstance(parameters, dict) else None
    if kinds != "object" and not (isinstance(kinds, list) and "object" in kinds):
        raise StageError(f"tool {name}: its parameters are not an object's; declare them as an object's properties")
    if fault := parameters_fault(parameters):
        raise StageError(f"tool {name}: its parameters cannot be used ({one_line(fault)}); correct them")


def closed(schema: Any) -> Any:
    """`schema` without the undeclared properties that it leaves open; what it declares is as before."""
    if not isinstance(schema, dict) or LEFT_OPEN & schema.keys():
        return schema
    schema = dict(schema)
    if "properties" in schema:
        schema["properties"] = {name: closed(value) for name, value in schema["properties"].items()}
        if schema["properties"].keys() >= set(schema.get("required") or ()):
            schema.setdefault("additionalProperties", False)
    if "items" in schema:
        schema["items"] = closed(schema["items"])
    return schema
