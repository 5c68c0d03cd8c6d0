"""The export's check needs sequences within the model's context."""

from __future__ import annotations

from collections.abc import Iterator

from k2core.training.phases import Extension
from stages.export import Params


def sequences_within_the_context(export: Params, extend_context: Extension) -> Iterator[str]:
    most = extend_context.rope_scaling.context
    if export.check_tokens > most:
        yield f"export.check_tokens = {export.check_tokens}: the model's context is {most} (extend_context); lower it"
