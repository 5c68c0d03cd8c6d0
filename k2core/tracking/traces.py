"""Dialogues as MLflow traces: a span for each message, so that a person can read what a model did, turn by turn."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

os.environ.setdefault("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false")  # the recorder ends as soon as it has played all

from mlflow import start_span_no_context
from mlflow.entities import SpanType
from mlflow.tracing.constant import TraceMetadataKey
from mlflow.tracking._tracking_service.utils import _use_tracking_uri

SETTING = "MLFLOW_TRACKING_URI"
KINDS = {"assistant": SpanType.LLM, "tool": SpanType.TOOL}


def log_trace(
    uri: str, experiment: str, run_id: str, name: str, messages: Sequence[dict[str, Any]], about: dict[str, Any],
    time: int,
) -> None:  # fmt: skip
    """Log a dialogue as a trace of a run.

    Args:
        messages: in OpenAI's format.
        about: attributes of the whole.
        time: when, in ms.
    """
    at = time * 1_000_000
    tags = {key: str(value) for key, value in about.items()}
    with _sent_to(uri):
        root = start_span_no_context(
            name, SpanType.AGENT, inputs=_first(messages, "user"), attributes=about, tags=tags,
            metadata={TraceMetadataKey.SOURCE_RUN: run_id}, experiment_id=experiment, start_time_ns=at,
        )  # fmt: skip
        for number, message in enumerate(messages):
            span = start_span_no_context(
                message["role"], KINDS.get(message["role"], SpanType.CHAIN), parent_span=root,
                inputs=messages[number - 1] if number and message["role"] in KINDS else None, start_time_ns=at + number,
            )  # fmt: skip
            span.set_outputs(message)
            span.end(end_time_ns=at + number + 1)
        root.set_outputs(messages[-1] if messages else None)
        root.end(end_time_ns=at + len(messages) + 1)


@contextmanager
def _sent_to(uri: str) -> Iterator[None]:
    """MLflow's tracing knows no address but the process's, which is as before after the block.

    MLflow also forgets the user's own setting in the environment there.
    """
    setting = os.environ.get(SETTING)
    try:
        with _use_tracking_uri(uri):
            yield
    finally:
        if setting is not None:
            os.environ[SETTING] = setting


def _first(messages: Sequence[dict[str, Any]], role: str) -> Any:
    return next((message.get("content") for message in messages if message["role"] == role), None)
