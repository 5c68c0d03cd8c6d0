"""What a model thinks aloud is no part of its answer, and without its end there is no answer."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from scripted_server import Server, config
from test_client import COMPUTE

from k2core.llm.client import LLM, Answer, Refused, Request
from k2core.llm.reasoning import has_reasoning, without_reasoning


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (" as it is\n", " as it is\n"),
        ("<think>so</think>\n\nsaid", "said"),
        ("</think>\n\nsaid", "said"),
        ("the template wrote the first tag</think>said", "said"),
        ("<THINK>a</THINK>said<think>b</think> more", "said more"),
        ("<think>a<think>b</think>c</think>said", "said"),
        ("<thinking>so</thinking>said", "said"),
        ("◁think▷so◁/think▷said", "said"),
        ("<think></think>", ""),
        ("<think>cut off", None),
        ("said <think>cut off", None),
        ("a < b and <thin> and think", "a < b and <thin> and think"),
    ],
)
def test_reasoning_is_taken_out(written: str, said: str | None) -> None:
    assert without_reasoning(written) == said
    assert said is None or not has_reasoning(said)


def test_it_takes_linear_time() -> None:
    started = time.process_time()
    for piece in ("<think>", "</think>", "<think>a</think>", "<think", "</"):
        without_reasoning(piece * 200_000)
    assert time.process_time() - started < 5


def test_every_answer_is_read_without_it(server: Server, tmp_path: Path) -> None:
    """From the server and from the replay cache alike; one without an end is not asked for again."""
    texts = ['<think>so</think>{"grade": 3}', "<think>cut off", "</think>said", "<think>only</think>"]
    requests = [Request([{"role": "user", "content": text}], 5, 0.0, 1) for text in texts]
    for _ in range(2):
        with LLM.open(config(server.url, concurrency=1, max_attempts=1), COMPUTE, tmp_path / "cache") as llm:
            # The server says "answer to " and the prompt.
            assert llm.answer(requests[0]).text == 'answer to {"grade": 3}' and llm.answer(requests[1]).text == ""
            found = llm.complete_many(requests, set_aside=True)
            assert [item.text for item in found if isinstance(item, Answer)] == [
                'answer to {"grade": 3}', "said", "answer to",
            ]  # fmt: skip
            assert found[1] == Refused("reasoning without an end")
    assert len(server.bodies) == len(texts)
