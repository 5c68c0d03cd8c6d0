"""Whatever is sampled under the Enforcer parses and validates; what the template says is always allowed."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from k2core.chat.parser import load_arguments, parse_assistant, schema_errors
from k2core.chat.special_tokens import IM_END, SPECIAL_TOKENS, TOOL_CALL_ARGUMENT_BEGIN, TOOL_CALLS_SECTION_BEGIN
from k2core.chat.template import encode_dialogue, reply_text
from k2core.chat.tokenizer import Tokenizer
from k2core.inference.enforcer import Enforcer, Reply, ToolCalls
from k2core.inference.rollouts import Prompt, encode_prompt, sample
from k2core.model.config import ModelConfig
from k2core.model.transformer import Transformer
from k2core.stage import StageError

VOCABULARY = 700
TEXTS = [path.read_text() for path in sorted(Path(json.__file__).parent.glob("*.py"))] + ["a <| b |> c <|d"] * 40
USER = {"role": "user", "content": "Go."}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, VOCABULARY)


@pytest.fixture(scope="module")
def enforcer(tokenizer) -> Enforcer:
    return Enforcer(tokenizer)


def tool(name: str, properties: dict, **more) -> dict:
    parameters = {"type": "object", "properties": properties} | more
    return {"type": "function", "function": {"name": name, "description": "", "parameters": parameters}}


RICH = [
    tool("book", {
        "who": {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
                "required": ["name"]},
        "days": {"type": "array", "items": {"type": "string", "format": "date"}, "minItems": 1, "maxItems": 3},
        "seat": {"enum": ["Fenster \"links\"", "Gang – ü", "窓", None, 3]},
        "note": {"type": ["string", "null"], "minLength": 2, "maxLength": 9},
        "paid": {"type": "boolean"},
        "price": {"type": "number", "minimum": 0, "maximum": 99.5},
    }, required=["who", "days", "seat"]),
    tool("book_all", {"ids": {"type": "array", "items": {"type": "integer", "minimum": 1}}}, required=["ids"]),
    tool("now", {}),
]  # fmt: skip


class Calling:
    """A `Constraint`: replies that call at once, since a random model would seldom begin to."""

    def __init__(self, calls: ToolCalls) -> None:
        self.calls = calls

    def begin(self) -> Reply:
        reply = self.calls.begin()
        reply.allowed = self.calls.enforcer.calls
        return reply


def allowed(reply: Reply) -> list[int]:
    words_W = np.full(-(-VOCABULARY // 32), -1, dtype=np.int32)
    reply.allow(words_W)
    return np.flatnonzero(np.unpackbits(words_W.view(np.uint8), bitorder="little", count=VOCABULARY)).tolist()


def walk(tokenizer: Tokenizer, constraint, random: Random, most: int = 4000) -> str:
    """A reply drawn evenly from what is allowed, but that every third token ends something if it can."""
    reply, tokens = constraint.begin(), []
    while len(tokens) < most and tokenizer.im_end_id not in tokens[-1:]:
        choices = allowed(reply)
        assert choices
        ending = [token for token in choices if tokenizer.decode([token]).lstrip(" ")[:1] in set('"}]') or
                  token >= VOCABULARY - len(SPECIAL_TOKENS)]  # fmt: skip
        tokens.append(random.choice(ending if ending and random.random() < 0.35 else choices))
        reply.advance(tokens[-1])
    return tokenizer.decode(tokens)


WHOLE = st.integers(-(2**53), 2**53)
"""Integers that every JSON parser reads alike (RFC 8259, section 6); the grammar rounds larger ones of an enum."""
LEAVES = st.one_of(
    st.just({"type": "string"}),
    st.builds(lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more},
              st.integers(0, 3), st.integers(0, 5)),
    st.builds(lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
              st.integers(-50, 50), st.integers(0, 200)),
    st.sampled_from([
        {"type": "integer"}, {"type": "number"}, {"type": "boolean"}, {"type": ["integer", "null"]}, {"const": "ß\"\\"},
        {"type": "string", "format": "date"}, {"type": "string", "format": "date-time"}, {},
        {"type": "string", "pattern": "^[A-Z]{2}-[0-9]+$"}, {"anyOf": [{"type": "string"}, {"type": "integer"}]},
    ]),
    st.lists(st.one_of(st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=6), WHOLE,
                       st.booleans(), st.none()), min_size=1, max_size=4).map(lambda values: {"enum": values}),
)  # fmt: skip
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="<"), min_size=1, max_size=5)


def objects(children) -> st.SearchStrategy[dict]:
    """Objects whose properties are partly optional and partly closed to others."""
    return st.builds(
        lambda properties, optional, more: {
            "type": "object", "properties": properties,
            "required": [name for name in properties if name not in optional],
        } | more,
        st.dictionaries(NAMES, children, max_size=3), st.sets(NAMES, max_size=2),
        st.sampled_from([{}, {"additionalProperties": False}, {"description": "any"}]),
    )  # fmt: skip


SCHEMAS = objects(st.recursive(
    LEAVES,
    lambda children: objects(children) | children.map(lambda items: {"type": "array", "items": items, "maxItems": 3}),
    max_leaves=5,
))  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(schemas=st.lists(SCHEMAS, min_size=1, max_size=3), seed=st.integers(0, 2**32))
def test_whatever_is_drawn_parses_and_validates(tokenizer, enforcer, schemas, seed):
    tools = [tool("t" * (n + 1), {}) for n in range(len(schemas))]
    for declared, schema in zip(tools, schemas, strict=True):
        declared["function"]["parameters"] = schema
    random = Random(seed)
    for _ in range(3):
        text = walk(tokenizer, Calling(enforcer.constraint([USER], tools)), random)
        parsed = parse_assistant(text)
        assert text.endswith(IM_END), "no end within the budget"
        assert parsed.tool_calls and not parsed.errors
        assert all("beyond any float" in error for error in schema_errors(parsed.tool_calls, tools)), text
        assert [call.id.rpartition(":")[2] for call in parsed.tool_calls] == [*map(str, range(len(parsed.tool_calls)))]


def test_random_models_call_as_declared(tokenizer, enforcer):
    """Through sampler and rollouts, in one batch with rows of other tools, of none and without a constraint."""
    torch.manual_seed(0)
    model = Transformer(ModelConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, attention="mla", q_lora_rank=16, kv_lora_rank=12, qk_nope_head_dim=8,
        qk_rope_head_dim=8, v_head_dim=12, n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1,
        first_k_dense_replace=1, routed_scaling_factor=2.8, rope_scaling=None, rope_theta=50000.0,
        max_position_embeddings=2048, rms_norm_eps=1e-6,
        initializer_range=0.1,
    ))  # fmt: skip
    begun = encode_prompt(tokenizer, [USER], None)

    def prompt(constraint):
        return Prompt(begun, 250, lambda text: 1.0, constraint)

    rich = Calling(enforcer.constraint([USER], RICH))
    small = Calling(enforcer.constraint([USER], RICH[1:]))
    silent = enforcer.constraint([USER], [])
    given = [prompt(rich), prompt(small), prompt(silent), prompt(None)]
    options = {"samples": 8, "temperature": 1.0, "seed": 3, "overlong_reward": 0.0}
    groups = sample(model, tokenizer, given, **options)
    for group, tools in zip(groups[:2], (RICH, RICH[1:]), strict=True):
        ended = [rollout for rollout in group if not rollout.truncated]
        assert len(ended) >= 3
        for rollout in ended:
            parsed = parse_assistant(rollout.text)
            assert parsed.tool_calls and not parsed.errors and not schema_errors(parsed.tool_calls, tools)
            assert len(rollout.log_probs) == len(rollout.tokens) and all(p <= 1e-6 for p in rollout.log_probs)
            assert rollout.log_probs[:2] == pytest.approx([0, 0])  # the section and its first call: no choice
        assert any(len(parse_assistant(rollout.text).tool_calls) > 1 for rollout in ended)
        for cut in (rollout for rollout in group if rollout.truncated):
            whole = parse_assistant(cut.text).tool_calls
            assert not schema_errors(whole, tools)  # calls before the cut stand
    assert not any("<|" in rollout.text.removesuffix(IM_END) for rollout in groups[2])
    free = sample(model, tokenizer, [prompt(None)] * 4, **options)
    assert [r.tokens for r in groups[3]] == [r.tokens for r in free[3]]


def test_without_tools_nothing_is_called(tokenizer, enforcer):
    for tools in (None, []):
        choices = allowed(enforcer.constraint([USER], tools).begin())
        control = {token for token in choices if token >= VOCABULARY - len(SPECIAL_TOKENS)}
        assert control == {tokenizer.im_end_id}
        assert len(choices) > VOCABULARY - len(SPECIAL_TOKENS) - 10


def test_a_reply_may_be_text_text_and_calls_or_calls(tokenizer, enforcer):
    choices = allowed(enforcer.constraint([USER], RICH).begin())
    control = {token for token in choices if token >= VOCABULARY - len(SPECIAL_TOKENS)}
    assert control == {tokenizer.im_end_id, tokenizer.id_of(TOOL_CALLS_SECTION_BEGIN)}


def call(name: str, index: int, arguments: dict) -> dict:
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": f"functions.{name}:{index}", "type": "function", "function": function}


@pytest.mark.parametrize("content", ["", "I look, for 1 < 2 | 3.\n"])
def test_what_the_template_says_is_allowed(tokenizer, enforcer, content):
    """The tokens that a model is trained on, in a dialogue that has called before."""
    first = {"role": "assistant", "content": "", "tool_calls": [call("now", 0, {}), call("now", 1, {})]}
    results = [{"role": "tool", "tool_call_id": f"functions.now:{n}", "content": "8"} for n in (0, 1)]
    who, seat = {"name": 'Ann "Ä" \\ 木\n', "age": -3}, 'Fenster "links"'
    second = {"role": "assistant", "content": content, "tool_calls": [
        call("book", 2, {"who": who, "days": ["2024-02-29", "2024-12-01"], "seat": seat, "note": "né", "price": 7.25}),
        call("book_all", 3, {"ids": [12, 5]}), call("now", 4, {}),
    ]}  # fmt: skip
    before = [USER, first, *results]
    prompt, _ = encode_dialogue(tokenizer, before, RICH, add_generation_prompt=True)
    whole, _ = encode_dialogue(tokenizer, [*before, second], RICH)
    reply, said = enforcer.constraint(before, RICH).begin(), whole[len(prompt) :]
    assert tokenizer.decode(said) == reply_text(second)
    for token in said:
        assert token in allowed(reply), tokenizer.decode([token])
        reply.advance(token)


def test_indices_go_on_and_no_other_will_do(tokenizer, enforcer):
    called = {"role": "assistant", "content": "", "tool_calls": [call("now", n, {}) for n in range(9)]}
    texts = [walk(tokenizer, Calling(enforcer.constraint([USER, called], RICH[2:])), Random(n)) for n in range(20)]
    ids = [[call.id for call in parse_assistant(text).tool_calls] for text in texts]
    assert all(found == [f"functions.now:{9 + n}" for n in range(len(found))] for found in ids)
    assert max(map(len, ids)) > 2


def test_names_that_begin_others(tokenizer, enforcer):
    names = ["get", "get_note", "get_note-2.x", "ge", "get_ünote", 'get"q"', "get\\n"]
    tools = [tool(name, {name: {"const": number}}, required=[name]) for number, name in enumerate(names)]
    constraint, random, found = Calling(enforcer.constraint([USER], tools)), Random(1), set()
    for _ in range(80):
        calls = parse_assistant(walk(tokenizer, constraint, random)).tool_calls
        assert calls and not schema_errors(calls, tools)
        found |= {call.name for call in calls}
    assert found == set(names)


def test_undeclared_arguments_are_not_written(tokenizer, enforcer):
    """JSON Schema lets objects hold more; the model knows only what is declared."""
    nested = tool("nested", {"each": {"type": "array", "items": RICH[1]["function"]["parameters"]}}, required=["each"])
    constraint, keys = Calling(enforcer.constraint([USER], [*RICH[1:], nested])), set()
    for seed in range(20):
        for made in parse_assistant(walk(tokenizer, constraint, Random(seed))).tool_calls:
            arguments = load_arguments(made.arguments)
            keys |= {(made.name, *arguments)} | {("item", *item) for item in arguments.get("each", ())}
    assert keys == {("book_all", "ids"), ("now",), ("nested", "each"), ("item", "ids")}


@pytest.mark.parametrize(
    ("parameters", "held"),
    [
        ({"a": {"type": "array", "items": {"type": "boolean"}, "uniqueItems": True}}, "the rest of its schema"),
        ({"a": {"type": "string", "pattern": "^a(?=b)"}}, "any JSON object"),
    ],
)
def test_what_cannot_be_enforced_is_left_out_and_said(tokenizer, enforcer, caplog, parameters, held):
    tools = [tool("odd", parameters, required=["a"]), *RICH[2:]]
    constraint = Calling(enforcer.constraint([USER], tools))
    assert len(caplog.messages) == 1 and caplog.messages[0].startswith(f"tool odd: its arguments are held to {held} (")
    enforcer.constraint([USER], tools)
    assert len(caplog.messages) == 1  # once a tool
    for seed in range(8):
        parsed = parse_assistant(walk(tokenizer, constraint, Random(seed)))
        assert not parsed.errors
        for made in parsed.tool_calls:
            arguments = load_arguments(made.arguments)
            assert held == "any JSON object" or all(isinstance(flag, bool) for flag in arguments.get("a", []))


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("say", {"type": "objekt"}, "not an object's"),
        ("say", {"type": "string"}, "not an object's"),
        ("say", ["a"], "not an object's"),
        ("say", {"type": "object", "properties": {"a": {"type": "text"}}}, r"properties\.a\.type: 'text' is not valid"),
        ("say", {"type": "object", "required": "a"}, r"\$\.required: 'a' is not of type 'array'"),
        (
            "say",
            {"properties": {"a": {"$ref": "http://localhost/schema"}}},
            "nothing at .ref 'http://localhost/schema'",
        ),
        ("say", {"properties": {"a": False}, "required": ["a"]}, r"properties\.a: no value meets it"),
        ("say it", {}, "a name may hold neither"),
        ("say:0", {}, "a name may hold neither"),
        ("<|im_end|>", {}, "a name may hold neither"),
        ("", {}, "a name may hold neither"),
    ],
)
def test_what_is_no_declaration_is_refused(enforcer, name, parameters, message):
    declared = {"type": "function", "function": {"name": name, "parameters": parameters}}
    with pytest.raises(StageError, match=f"tool .*{message}"):
        enforcer.constraint([USER], [declared])


@pytest.mark.parametrize(
    "properties",
    [
        {"a": {"enum": ["<|tool_call_end|>"]}},
        {"a": {"const": "x<|tool_call_argument_begin|>"}},
        {"a": {"type": "string", "pattern": r"^<\|im_end\|>$"}},
        {"<|tool_call_end|>": {"type": "integer"}},
    ],
)
def test_control_tokens_are_never_written_as_text(tokenizer, enforcer, properties):
    """A schema that demands one ends the reply, and the call stays incomplete."""
    tools = [tool("trap", properties, required=[*properties])]
    text = walk(tokenizer, Calling(enforcer.constraint([USER], tools)), Random(0))
    parsed = parse_assistant(text)
    assert text.endswith(IM_END) and text.count(TOOL_CALL_ARGUMENT_BEGIN) == 1
    assert not parsed.tool_calls and parsed.errors


def test_less_than_and_bar_are_apart(tokenizer, enforcer):
    reply = enforcer.constraint([USER], RICH).begin()
    bar, less = tokenizer.encode("|"), tokenizer.encode("<")
    assert len(bar) == len(less) == 1 and {*bar, *less} <= {*allowed(reply)}
    assert not any("<|" in tokenizer.decode([t]) for t in allowed(reply) if t < VOCABULARY - len(SPECIAL_TOKENS))
    reply.advance(less[0])
    assert not any(tokenizer.decode([token]).startswith("|") for token in allowed(reply))
    reply.advance(tokenizer.encode("a")[0])
    assert bar[0] in allowed(reply)
