"""Servers without pages answer nobody without a secret; those of `make ui` are in tests/flows/test_pages.py."""

from __future__ import annotations

import httpx
import pytest
from workspace import Workspace

from k2core.llm import engine
from k2core.llm.config import EMBEDDED, LLMConfig
from k2core.recipe import RecipeError

LOGIN = """
from flows.settings import apply_settings
apply_settings()
import os
print(os.environ.get("PREFECT_API_AUTH_STRING"))
"""
PROFILE = """
active = "theirs"
[profiles.theirs]
PREFECT_API_URL = "http://prefect.example/api"
"""


def test_the_temporary_prefect_of_a_run_at_a_terminal(toy: Workspace) -> None:
    toy.edit("params.yaml", "steps: 5, seconds_a_step: 0.02", "steps: 200, seconds_a_step: 0.25")
    run = toy.start("python", "-m", "flows.pipeline")
    try:
        assert run.stdout
        assert any("Running stage" in line for line in run.stdout)
        (server,) = toy.processes("prefect.server.api.server:create_app")
        words = server.cmdline()
        address = f"http://127.0.0.1:{words[words.index('--port') + 1]}"
        for path in ("flow_runs/filter", "logs/filter", "deployments/filter", "block_types/filter"):
            assert httpx.post(f"{address}/api/{path}", json={}, timeout=60).status_code == 401, path
            strangers = {"origin": "http://evil.example", "host": "evil.example"}
            answer = httpx.post(f"{address}/api/{path}", json={}, headers=strangers, timeout=60)
            assert answer.status_code == 401
            assert "access-control-allow-origin" not in answer.headers
        secret = (toy.root / "work" / "secrets" / "prefect").read_text()
        answer = httpx.post(f"{address}/api/flow_runs/filter", json={}, auth=("k2", secret), timeout=60)
        assert [found["state_type"] for found in answer.json()] == ["RUNNING"]
        assert secret not in " ".join(words), "another user can read a command line"
    finally:
        run.terminate()
        run.communicate(timeout=120)


def test_our_secret_is_not_sent_to_a_server_that_the_user_names(toy: Workspace) -> None:
    assert toy.run("python", "-c", LOGIN).stdout.startswith("k2:")
    toy.env["PREFECT_API_URL"] = "http://prefect.example/api"
    assert toy.run("python", "-c", LOGIN).stdout == "None\n"
    del toy.env["PREFECT_API_URL"]
    (toy.root / ".prefect" / "profiles.toml").write_text(PROFILE)
    assert toy.run("python", "-c", LOGIN).stdout == "None\n"


def test_the_embedded_engine() -> None:
    try:
        engine.weights()
    except RecipeError:
        pytest.skip("no weights here")
    config = LLMConfig(
        base_url=EMBEDDED, model="m", api_key_variable="", context=256, timeout_s=60, max_attempts=1, max_wait_s=1,
        concurrency=1, expected_tokens_per_second=60,
    )  # fmt: skip
    with engine.serve(config, threads=1) as (address, key):
        assert address.startswith("http://127.0.0.1:")
        body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "model": "m"}
        for path in ("chat/completions", "completions", "embeddings", "../props", "../slots", "../tokenize"):
            for headers in ({}, {"authorization": "Bearer guess"}, {"origin": "http://evil.example"}):
                answer = httpx.post(f"{address}/{path}", json=body, headers=headers, timeout=60)
                assert answer.status_code in (401, 403, 404), (path, answer.status_code)
        mine = {"authorization": f"Bearer {key}"}
        assert httpx.post(f"{address}/chat/completions", json=body, headers=mine, timeout=60).status_code == 200
