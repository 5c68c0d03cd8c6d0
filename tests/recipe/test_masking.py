"""Passwords in addresses: refused in a recipe with the place where they belong, and masked in everything else."""

from __future__ import annotations

import time

import pytest

from k2core.llm.config import LLMConfig
from k2core.recipe import RecipeError, mask, validate
from k2core.training.checkpoint import CheckpointConfig
from stages.ingest import Params as Ingest

MASKED = {
    "http://me:planted@host:1/v1": "http://host:1/v1",
    "see https://me:pl@nted@host/x, and s3://AKIA:planted@bucket/a": "see https://host/x, and s3://bucket/a",
    'connect("postgresql+psycopg://me:planted@db/mlflow")': 'connect("postgresql+psycopg://db/mlflow")',
    "https://planted@host": "https://host",
    "https://host/v1?api-version=3&api-key=planted&x=1": "https://host/v1?api-version=3&api-key=***&x=1",
    "https://bucket/o?X-Amz-Signature=planted": "https://bucket/o?X-Amz-Signature=***",
    "s3://AKIA:pl/anted@bucket/a": "s3://bucket/a",
    "postgresql://me:pl/an#ted@db/mlflow": "postgresql://db/mlflow",
    "https://x.blob/a?sv=1&sig=planted%3D": "https://x.blob/a?sv=1&sig=***",
    "https://host/a#access_token=planted": "https://host/a#access_token=***",
    "https://host/?pwd=planted&amp;auth=planted": "https://host/?pwd=***&amp;auth=***",
    "https://host:80/~me@home?author=me&design=x": "https://host:80/~me@home?author=me&design=x",
    "mail me@host or http://host/~me@home": "mail me@host or http://host/~me@home",
    "limits.stages.pretrain@stable=3": "limits.stages.pretrain@stable=3",
    "s3://bucket/a@b": "s3://bucket/a@b",
    "https://host/x?code=planted&pass=planted": "https://host/x?code=***&pass=***",
    "https://host/?password%20=planted": "https://host/?password%20=***",
    "mysql://u:pl anted@h/db": "mysql://h/db",
    "postgresql://u:pl'an\"ted@h/db": "postgresql://h/db",
    '{"a": "postgresql://u:pl\\"anted@h/db"}': '{"a": "postgresql://h/db"}',
    '{"a": "http://h:x", "b": "me@h"}': '{"a": "http://h:x", "b": "me@h"}',
    "http://127.0.0.1:4200 or write to me@h.org": "http://127.0.0.1:4200 or write to me@h.org",
    "http://[::1]:5000/~me@home": "http://[::1]:5000/~me@home",
    "cannot reach http://host: stage pretrain@stable": "cannot reach http://host: stage pretrain@stable",
    "u:planted@host/v1": "host/v1",
    "--dsn=u:pl/anted@host.org:5432": "--dsn=host.org:5432",
    "u:planted@localhost:8000": "localhost:8000",
    "//u:planted@host/v1": "//host/v1",
    "http:/u:planted@h": "http:/h",
    "http:\\/\\/u:planted@h": "http:\\/\\/h",
    "http://u%3Aplanted%40h": "http://h",
    "Stage 'dvc.yaml:pretrain@stable' failed": "Stage 'dvc.yaml:pretrain@stable' failed",
    "mailto:me@host.org, 12:30 me@host.org": "mailto:me@host.org, 12:30 me@host.org",
    "reg/repo:tag@sha256:1ab": "reg/repo:tag@sha256:1ab",
}
LLM = {
    "model": "m", "api_key_variable": "", "context": 512, "timeout_s": 1.0, "max_attempts": 1, "max_wait_s": 1.0,
    "concurrency": 1, "expected_tokens_per_second": 1.0,
}  # fmt: skip
FILE = {"name": "a", "kind": "jsonl", "domain": "web", "license": "x", "attribution": "x", "limit": None}
LONG = [
    "://" * 10**5,
    "://" + "a:" * 10**5,
    "?key" * 10**5,
    "&" + "token" * 10**5,
    "@" * 10**5,
    "?" + "a" * 10**5,
    "://a:" * 10**5,
    "a:" * 10**5,
    "a" * 10**6,
    ('//a:"' * 10**5) + "@",
    "a:b " * 10**5,
]


@pytest.mark.parametrize(("text", "masked"), MASKED.items())
def test_mask(text: str, masked: str) -> None:
    assert mask(text) == masked
    assert mask(masked) == masked


@pytest.mark.parametrize("text", LONG, ids=lambda text: text[:8])
def test_it_is_linear(text: str) -> None:
    started = time.process_time()
    mask(text)
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "address", ["http://me:planted@host/v1", "http://host/v1?api_key=planted", "me:planted@host/v1"]
)
def test_a_server_with_a_password_is_refused(address: str) -> None:
    with pytest.raises(
        RecipeError, match=r"llm.base_url: the address holds a password.*llm.api_key_variable"
    ) as caught:
        validate(LLMConfig, {**LLM, "base_url": address}, "params.yaml: llm")
    with pytest.raises(RecipeError, match=r"llm.more_base_urls.0: the address holds a password.*llm.api_key_variable"):
        validate(LLMConfig, {**LLM, "more_base_urls": [address]}, "params.yaml: llm")
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "variable"),
    [
        ("s3://AKIA:planted@bucket/*.jsonl", "AWS_SECRET_ACCESS_KEY"), ("hf://me:planted@datasets/x", "HF_TOKEN"),
        ("https://me:planted@host/a.jsonl", "FSSPEC_HTTP"), ("ftp://me:planted@host/a.jsonl", "environment variable"),
    ],
)  # fmt: skip
def test_a_source_with_a_password_is_refused(path: str, variable: str) -> None:
    with pytest.raises(RecipeError, match=f"ingest.files.0.path: the address holds a password.*{variable}") as caught:
        validate(Ingest, {"files": [{**FILE, "path": path}]}, "params.yaml: ingest")
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize("key", ["mirror", "resume_from"])
def test_a_mirror_with_a_password_is_refused(key: str) -> None:
    content = {"keep": 1, "permanent_every": 0, "mirror": "", "resume_from": "", "accept": []}
    with pytest.raises(RecipeError, match=f"checkpoint.{key}: the address holds a password.*AWS_SECRET_ACCESS_KEY"):
        validate(CheckpointConfig, {**content, key: "s3://AKIA:planted@bucket/a"}, "params.yaml: checkpoint")
