"""The server as OpenAI's own client sees it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import openai
import pytest
import torch
from serving import served
from untrained import export_untrained
from workspace import ROOT

from k2core.chat.parser import parse_assistant, schema_errors
from k2core.chat.special_tokens import IM_END
from k2core.inference.enforcer import Enforcer
from k2core.inference.rollouts import encode_prompt
from k2core.inference.stream import stream
from k2core.serve import app as module
from k2core.serve.app import Served, application

SAID = [{"role": "user", "content": "Go."}]
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {
        "type": "object", "required": [key], "properties": {key: {"enum": values}}}}}
    for name, key, values in (("paint", "colour", ["red", "blue"]), ("count", "to", [1, 2, 3]))
]  # fmt: skip
PICTURE = {"type": "image_url", "image_url": {"url": "data:,"}}


def called(name: str, **more) -> dict:
    return {"type": "function", "function": {"name": name, **more}}


def takes(a) -> dict:
    return called("f", parameters={"type": "object", "properties": {"a": a}, "required": ["a"]})


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Iterator[SimpleNamespace]:
    """A server of an untrained model with 4 rows, and its parts."""
    model = Served.load(export_untrained(tmp_path_factory.mktemp("served") / "tiny"), rows=4, waiting=24)
    app = application(model)
    with served(app) as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="any", max_retries=0, timeout=60)
        yield SimpleNamespace(model=model, client=client, address=address, desk=app.state.desk)


@pytest.fixture(scope="module")
def ask(here):
    def make(messages=SAID, **more):
        return here.client.chat.completions.create(model="tiny", messages=messages, **more)

    return make


def written(here, messages, *, most: int, temperature: float = 0.0, seed: str = "1/0/0", tools=None, **held) -> str:
    """What the model writes where nobody serves it."""
    tokenizer = here.model.tokenizer
    constraint = Enforcer(tokenizer).constraint(messages, tools, **held)
    tokens = stream(
        here.model.model, encode_prompt(tokenizer, messages, tools), max_new_tokens=most, temperature=temperature,
        stop_ids={tokenizer.im_end_id}, seed=seed, constraint=constraint,
    )  # fmt: skip
    return tokenizer.decode_reply(list(tokens))


def test_models_are_listed(here):
    assert [model.id for model in here.client.models.list()] == ["tiny"]
    assert here.client.models.retrieve("tiny").object == "model"
    with pytest.raises(openai.NotFoundError, match="there is no model other, only tiny"):
        here.client.models.retrieve("other")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_reply_is_the_models_whole_and_in_chunks(here, ask, temperature):
    text = written(here, SAID, most=40, temperature=temperature)
    wanted = {"max_tokens": 40, "temperature": temperature, "seed": 1}
    whole = ask(**wanted)
    assert whole.object == "chat.completion" and whole.choices[0].message.role == "assistant"
    assert whole.choices[0].message.content == text.removesuffix(IM_END)
    assert whole.choices[0].finish_reason == ("stop" if text.endswith(IM_END) else "length")
    assert whole.usage.prompt_tokens == len(encode_prompt(here.model.tokenizer, SAID, None))
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
    *chunks, last = ask(**wanted, stream=True, stream_options={"include_usage": True})
    assert last.usage == whole.usage and not last.choices and all(chunk.usage is None for chunk in chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == [
        whole.choices[0].finish_reason
    ]
    assert len({chunk.id for chunk in chunks}) == 1


def test_choices_are_drawn_apart_and_seeds_repeat_them(ask):
    first, again, other = (ask(n=3, seed=seed, max_tokens=12) for seed in (7, 7, 8))
    texts = [[choice.message.content for choice in reply.choices] for reply in (first, again, other)]
    assert texts[0] == texts[1] != texts[2] and len(set(texts[0])) == 3
    assert first.usage.completion_tokens > first.choices[0].index == 0
    assert ask(top_p=1e-6, max_tokens=12).choices[0].message.content == (
        ask(temperature=0, max_tokens=12).choices[0].message.content
    )


def test_more_clients_than_rows_get_what_each_gets_alone(ask):
    def one(seed):
        return ask([{"role": "user", "content": "x" * seed}], seed=seed, max_tokens=5 + seed).choices[0].message.content

    alone = [one(seed) for seed in range(12)]
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(one, range(12))) == alone


def test_a_stop_ends_the_words_and_is_not_told(here, ask):
    text = written(here, SAID, most=40)
    stop = text[11:14]
    whole = ask(max_tokens=40, temperature=0, stop=[stop, "never said"])
    assert whole.choices[0].message.content == text[: text.find(stop)] and whole.choices[0].finish_reason == "stop"
    chunks = ask(max_tokens=40, temperature=0, stop=stop, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text[: text.find(stop)]


def test_log_probabilities(here, ask):
    whole = ask(max_tokens=6, temperature=0, logprobs=True, top_logprobs=3)
    entries = whole.choices[0].logprobs.content
    assert b"".join(bytes(one.bytes) for one in entries).decode(errors="replace").startswith(
        whole.choices[0].message.content.removesuffix("\ufffd"))  # fmt: skip
    for entry in entries:
        assert len(entry.top_logprobs) == 3 and entry.logprob <= 0
        assert (entry.token, entry.logprob) == (entry.top_logprobs[0].token, entry.top_logprobs[0].logprob)
    chunks = ask(max_tokens=6, temperature=0, logprobs=True, top_logprobs=3, stream=True)
    told = [one for chunk in chunks if chunk.choices[0].logprobs for one in chunk.choices[0].logprobs.content]
    assert told == entries
    assert ask(max_tokens=2).choices[0].logprobs is None


@pytest.mark.parametrize("choice", ["required", called("count")])
def test_a_call_that_is_due_is_made_whole_and_in_chunks(here, ask, choice):
    named = choice != "required"
    wanted = {"tools": TOOLS, "tool_choice": choice, "seed": 3, "max_tokens": 120, "parallel_tool_calls": False}
    whole = ask(**wanted).choices[0]
    (call,) = whole.message.tool_calls
    assert whole.finish_reason == "tool_calls" and whole.message.content is None
    assert re.fullmatch(r"functions\.(paint|count):0", call.id) and (not named or call.function.name == "count")
    assert not schema_errors(parse_assistant(_as_written(call)).tool_calls, TOOLS)
    chunks = list(ask(**wanted, stream=True))
    deltas = [one for chunk in chunks for one in chunk.choices[0].delta.tool_calls or []]
    assert (deltas[0].id, deltas[0].type, deltas[0].function.name) == (call.id, "function", call.function.name)
    assert "".join(delta.function.arguments for delta in deltas) == call.function.arguments
    assert {delta.index for delta in deltas} == {0} and chunks[-1].choices[0].finish_reason == "tool_calls"
    with here.client.chat.completions.stream(model="tiny", messages=SAID, **wanted) as events:
        final = events.get_final_completion().choices[0]
    assert final.message.tool_calls[0].function.arguments == call.function.arguments


def _as_written(call) -> str:
    inner = f"{call.id}<|tool_call_argument_begin|>{call.function.arguments}"
    return f"<|tool_calls_section_begin|><|tool_call_begin|>{inner}<|tool_call_end|><|tool_calls_section_end|>"


def test_the_dialogue_goes_on_after_a_call(ask):
    message = (
        ask(tools=TOOLS, tool_choice="required", seed=3, max_tokens=120, parallel_tool_calls=False).choices[0].message
    )
    dialogue = [*SAID, message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "done"}]
    after = ask(dialogue, tools=TOOLS, tool_choice="required", seed=3, max_tokens=120, parallel_tool_calls=False)
    assert after.choices[0].message.tool_calls[0].id.endswith(":1")  # K2 counts the calls of the whole dialogue
    assert ask(dialogue, tools=TOOLS, tool_choice="none", max_tokens=9).choices[0].message.tool_calls is None


def test_a_call_that_the_budget_cuts_is_none(ask):
    wanted = {"tools": TOOLS, "tool_choice": "required", "max_tokens": 8, "seed": 1}
    whole = ask(**wanted).choices[0]
    assert whole.finish_reason == "length" and whole.message.tool_calls is None
    assert list(ask(**wanted, stream=True))[-1].choices[0].finish_reason == "length"


def test_a_call_that_its_schema_leaves_no_way_on_is_none(ask):
    wanted = {"tools": [takes({"enum": ["<|tool_call_end|>"]})], "tool_choice": "required", "max_tokens": 60, "seed": 1}
    whole = ask(**wanted).choices[0]
    assert whole.finish_reason == "length" and whole.message.tool_calls is None
    assert list(ask(**wanted, stream=True))[-1].choices[0].finish_reason == "length"


def test_completions(here):
    def complete(prompt, **more):
        return here.client.completions.create(model="tiny", prompt=prompt, **{"max_tokens": 8, "temperature": 0} | more)

    tokenizer = here.model.tokenizer
    ids = tokenizer.encode("def f(")
    one = complete("def f(")
    assert one.object == "text_completion" and one.usage.prompt_tokens == len(ids)
    many = complete(["def f(", ""], n=2)
    assert [choice.text for choice in many.choices[:2]] == [one.choices[0].text] * 2
    assert many.usage.prompt_tokens == len(ids) + 1  # an empty prompt is the beginning of a document
    assert complete(ids).choices[0].text == complete([ids]).choices[0].text == one.choices[0].text
    assert "".join(chunk.choices[0].text for chunk in complete("def f(", stream=True)) == one.choices[0].text
    echoed = complete("def f(", echo=True, logprobs=2, max_tokens=1).choices[0]
    assert echoed.text.startswith("def f(") and one.choices[0].text.startswith(echoed.text[6:].rstrip("\ufffd"))
    assert echoed.logprobs.token_logprobs[0] is None and len(echoed.logprobs.tokens) == len(ids) + 1
    with torch.no_grad():
        log_probs = here.model.model(torch.tensor([ids]))[0].log_softmax(-1)
    own = [float(log_probs[at, token]) for at, token in enumerate(ids[1:])]
    assert echoed.logprobs.token_logprobs[1:-1] == pytest.approx(own, abs=1e-4)
    alone = complete("def f(", echo=True, logprobs=1, max_tokens=0).choices[0]
    assert alone.text == "def f(" and alone.finish_reason == "length"
    assert complete("def f(", echo=True, max_tokens=0).choices[0].text == "def f("
    assert alone.logprobs.token_logprobs == echoed.logprobs.token_logprobs[:-1]


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"messages": []}, "messages", "at least 1 item"),
        ({}, "messages", "Field required"),
        ({"messages": SAID, "temperature": 3}, "temperature", "less than or equal to 2"),
        ({"messages": SAID, "temperature": "1"}, "temperature", "valid number"),
        ({"messages": SAID, "max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"messages": SAID, "n": 65}, "n", "less than or equal to 64"),
        ({"messages": SAID, "n": 30}, "n", "24 are the most"),
        ({"messages": SAID, "logit_bias": {}}, "logit_bias", "no such parameter"),
        ({"messages": SAID, "frequency_penalty": 1}, "frequency_penalty", "equal to 0"),
        ({"messages": SAID, "top_logprobs": 2}, None, "needs logprobs"),
        ({"messages": SAID, "response_format": {"type": "json_object"}}, "response_format.type", "'text'"),
        ({"messages": [{"role": "pope", "content": "x"}]}, "messages[0].role", "'system'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0]", "needs tool_call_id"),
        ({"messages": [{"role": "user"}]}, "messages[0]", "needs content"),
        ({"messages": [{"role": "user", "content": [PICTURE]}]}, "messages[0].content[0].type", "'text'"),
        ({"messages": SAID, "tools": TOOLS + TOOLS}, None, "same name"),
        ({"messages": SAID, "tool_choice": "required"}, None, "no tools"),
        ({"messages": SAID, "tools": TOOLS, "tool_choice": called("fly")}, None, "'fly'"),
        ({"messages": SAID, "tools": [called("a b")]}, "tools[0].function.name", "pattern"),
        ({"messages": SAID, "tools": [called("f", parameters={"type": "array"})]}, "tools", "not an object's"),
        ({"messages": SAID, "tools": [takes({"$ref": "#/properties/a"})]}, "tools",
         "tool f: its parameters cannot be used ($.properties.a: no value meets it, because it needs itself)"),
        ({"messages": SAID, "tools": [takes({"enum": []})]}, "tools", "tool f: its parameters cannot be used ($.prop"),
        ({"messages": SAID, "tools": [takes(False)]}, "tools", "tool f: its parameters cannot be used ($.prop"),
        ({"messages": [1]}, "messages[0]", "messages[0]: must be a JSON object"),
        ({"messages": SAID, "max_tokens": 512}, "messages", "context has 512"),
        ({"messages": [{"role": "user", "content": "word " * 600}]}, "messages", "context has 512"),
    ],
)  # fmt: skip
def test_a_request_that_is_wrong_gets_a_400(here, body, param, message):
    response = httpx.post(f"{here.address}/v1/chat/completions", json={"model": "tiny"} | body)
    error = response.json()["error"]
    assert response.status_code == 400 and error["type"] == "invalid_request_error", error
    assert message in error["message"] and error["param"] == param and "\n" not in error["message"], error


def test_bodies_that_are_none(here):
    def post(content, path="chat/completions", kind="application/json", **headers):
        return httpx.post(f"{here.address}/v1/{path}", content=content, headers={"content-type": kind} | headers)

    good = json.dumps({"model": "tiny", "messages": SAID, "max_tokens": 1})
    assert post(good).status_code == 200
    for status, response in (
        (400, post("{")), (400, post("[1]")), (400, post("[" * 100_000)), (400, post(b"\xff")),
        (415, post(good, kind="text/plain")), (404, post(good.replace("tiny", "huge"))), (404, post(good, "nothing")),
        (413, post(" " * (module.MOST_BYTES + 1))), (421, post(good, host="evil.example")),
        (405, httpx.get(f"{here.address}/v1/completions")),
        (400, post('{"model": "tiny", "prompt": [600]}', "completions")),
        (400, post('{"model": "tiny", "prompt": []}', "completions")),
        (400, post('{"model": "tiny", "prompt": "x", "max_tokens": 0}', "completions")),
    ):  # fmt: skip
        assert response.status_code == status and response.json()["error"]["message"], response.text
    assert post("[1]").json()["error"]["message"] == "the body must be a JSON object"
    lone = '{"model": "tiny", "max_tokens": 1, "messages": [{"role": "user", "content": "\\ud83d"}]}'
    assert post(lone).status_code == 200


def test_clients_that_go_leave_their_rows(here, ask):
    """Also before the first token: more of them than there are rows, and then one that is answered."""
    engine = here.desk.engine
    streams = [ask(max_tokens=400, seed=seed, stream=True, stop=["never said"]) for seed in range(6)]
    for one in streams:
        one.close()
    with ThreadPoolExecutor(6) as pool:
        impatient = openai.OpenAI(base_url=f"{here.address}/v1", api_key="any", max_retries=0, timeout=0.05)
        for _ in pool.map(lambda seed: _gives_up(impatient, seed), range(6)):
            pass
    assert ask(max_tokens=2).choices[0].message
    deadline = time.monotonic() + 10
    while (engine.going or engine.waiting) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not engine.going and not engine.waiting


def _gives_up(client, seed: int) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="tiny", messages=SAID, max_tokens=400, seed=seed, n=4)


def test_a_full_queue_is_a_429(here, ask, monkeypatch):
    monkeypatch.setattr(here.desk.engine, "most_waiting", 0)
    with pytest.raises(openai.RateLimitError, match="wait already") as caught:
        ask(max_tokens=1)
    assert caught.value.response.headers["retry-after"] == "1"


def test_what_fails_in_the_engine_is_told(here, ask, monkeypatch):
    def broken(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(here.desk.engine, "_step", broken)
    with pytest.raises(openai.InternalServerError, match="out of memory"):
        ask(max_tokens=1)
    with pytest.raises(openai.APIError, match="out of memory"):
        list(ask(max_tokens=1, stream=True))


def test_a_key(tmp_path_factory, here):
    with served(application(here.model, key="secret")) as address:
        for key, status in (("secret", 200), ("other", 401), ("", 401)):
            response = httpx.get(f"{address}/v1/models", headers={"authorization": f"Bearer {key}"} if key else {})
            assert response.status_code == status
            assert status == 200 or response.json()["error"]["code"] == "invalid_api_key"


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    return export_untrained(tmp_path_factory.mktemp("command") / "tiny")


def test_the_command_serves_until_ctrl_c(exported):
    environment = os.environ | {"K2_SERVE_KEY": "secret"}
    process = subprocess.Popen(
        [sys.executable, "-m", "k2core.serve", exported, "--port", "0"], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert "loading" in process.stdout.readline()
        line = process.stdout.readline()
        address = re.search(r"tiny on (http://127\.0\.0\.1:\d+/v1): 512 tokens of context", line)[1]
        client = openai.OpenAI(base_url=address, api_key="secret", max_retries=0, timeout=60)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                client.models.list()
                break
            except openai.APIConnectionError:
                time.sleep(0.1)
        under_way = client.chat.completions.create(model="tiny", messages=SAID, max_tokens=450, n=32, stream=True)
        next(iter(under_way))
        process.send_signal(signal.SIGINT)
        with pytest.raises(openai.APIError, match="the server is ending"):
            list(under_way)
        assert process.wait(20) == 0 and "Traceback" not in process.stdout.read()
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("inside", "host", "said"),
    [
        ("tiny", "0.0.0.0", "0.0.0.0 can be reached from other machines; set a key for the clients in K2_SERVE_KEY"),
        ("tiny", "192.0.2.1", "set a key"),
        ("", "127.0.0.1", "no such file; name an exported model"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(exported, inside, host, said):
    command = [sys.executable, "-m", "k2core.serve", exported.parent / inside, "--port", "0", "--host", host]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and said in done.stderr
