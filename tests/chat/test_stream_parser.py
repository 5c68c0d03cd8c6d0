"""A reply in pieces is the whole reply, wherever it is cut; ids as other people's models write them."""

from __future__ import annotations

import json
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2core.chat.detokenizer import Detokenizer
from k2core.chat.parser import parse_assistant
from k2core.chat.special_tokens import IM_END, SPECIAL_TOKENS
from k2core.chat.stream_parser import MARKERS, Arguments, CallBegins, CallEnds, StreamParser, Words, collected, merged
from k2core.chat.tokenizer import Tokenizer

BEGIN, END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"


def tool(name: str, *properties: str, required: tuple[str, ...] = ()) -> dict:
    parameters = {
        "type": "object", "properties": {key: {"type": "string"} for key in properties}, "required": list(required)
    }  # fmt: skip
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


WEATHER, FILE, FLIGHT = tool("get_weather", "city", "unit"), tool("read_file", "path"), tool("book_flight", "city")


def call(id: str, arguments: str) -> str:
    return f"<|tool_call_begin|>{id} <|tool_call_argument_begin|>{arguments}<|tool_call_end|>"


parts = st.lists(
    st.sampled_from([*MARKERS, *SPECIAL_TOKENS, "<|", "|>", "<", "functions.a:0", "a:1", "0", ' {"n": 1} ', " ", "\n"])
    | st.just(call("functions.a:0", '{"city": "B<"}')) | st.just(call("0", '{"path": "x"}')) | st.text(max_size=6),
    max_size=14,
)  # fmt: skip
tools = st.sampled_from([None, [], [WEATHER], [WEATHER, FILE]])


@settings(deadline=None, max_examples=150)
@given(parts, tools, st.randoms(use_true_random=False))
def test_every_cut_gives_the_words_and_calls_of_the_whole(made: list[str], declared, random: Random) -> None:
    text = "".join(made)
    whole = parse_assistant(text, declared)
    for count in (0, 3, len(text)):
        cuts = sorted(random.choices(range(len(text) + 1), k=count)) if count < len(text) else range(len(text))
        parser, events = StreamParser(declared), []
        for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            events += parser.take(text[start:end])
        events += parser.end()
        assert collected(events) == (whole.content, whole.tool_calls)
        assert collected(merged(events)) == collected(events)


def test_arguments_are_told_while_they_are_written() -> None:
    parser = StreamParser()
    told = [parser.take(piece) for piece in (
        "Hm. ", BEGIN[:9], BEGIN[9:] + "<|tool_call_begin|>functions.f", ":3", "<|tool_call_argument_begin|> {", '"a"',
        ": 1}  ", "<|tool_call", "_end|>" + END, IM_END,
    )]  # fmt: skip
    assert told == [
        [Words("Hm. ")], [], [], [], [CallBegins("functions.f:3", "f"), Arguments("{")], [Arguments('"a"')],
        [Arguments(": 1}")], [], [CallEnds()], [],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("declared", "id", "arguments", "name"),
    [
        ([WEATHER], "get_weather:0", '{"city": "Tokyo"}', "get_weather"),
        ([WEATHER], "0", '{"city": "Tokyo", "unit": "celsius"}', "get_weather"),
        ([WEATHER], "0", '{"city": "Tokyo"', "get_weather"),
        ([FILE, WEATHER], "0", '{"city": "Tokyo", "unit": "celsius"}', "get_weather"),
        ([WEATHER, FLIGHT], "0", '{"city": "Tokyo"}', None),
        ([WEATHER, FLIGHT], "0", '{"city": "Tokyo"', None),
        ([tool("f", "city"), tool("g", "city", "day", required=("day",))], "1", '{"city": "T"}', "f"),
        ([WEATHER], "functions.get_weather.0", "{}", None),
        ([WEATHER], "functions.get_weather:0", "{}", "get_weather"),
    ],
)  # fmt: skip
def test_ids_of_other_peoples_models(declared, id, arguments, name) -> None:
    """The cases of vLLM's tests of its own parser for Kimi K2; our own models stay strict."""
    text = "Let me check. " + BEGIN + call(id, arguments) + END
    for found in (parse_assistant(text, declared).tool_calls, collected(StreamParser(declared).take(text))[1]):
        assert [(one.id, one.name, one.arguments) for one in found] == ([(id, name, arguments)] if name else [])
    strict = parse_assistant(text).tool_calls
    assert bool(strict) == (id == "functions.get_weather:0") and strict == collected(StreamParser().take(text))[1]


def test_a_reply_s_tokens_are_its_text_one_by_one() -> None:
    tokenizer = Tokenizer.train([json.__doc__ or "", "a <| b |> < c"] * 20, 330)
    random = Random(3)
    for _ in range(300):
        text = random.choice(["a <| b", "<|im_end|>", "naïve – 窓 🎈", "x<", "|y", ""]) * random.randrange(1, 3)
        ids = tokenizer.encode(text, allow_special=random.random() < 0.5)
        ids += [random.randrange(330) for _ in range(random.randrange(6))]
        words = Detokenizer(tokenizer)
        assert "".join([*map(words.take, ids), words.end()]) == tokenizer.decode_reply(ids)


def test_the_bytes_of_a_text_s_tokens_are_its_own() -> None:
    tokenizer = Tokenizer.train([json.__doc__ or ""] * 20, 300)
    for text in ("naïve – 窓 🎈\n\t", "plain", "\0\x7f"):
        assert b"".join(map(tokenizer.bytes_of, tokenizer.encode(text))) == text.encode()
    assert tokenizer.bytes_of(tokenizer.im_end_id) == IM_END.encode()
