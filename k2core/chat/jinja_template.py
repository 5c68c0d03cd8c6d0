"""The chat template for `transformers`: equal to `k2core.chat.template.render` with tools in JSON."""

from __future__ import annotations

from pathlib import Path

CHAT_TEMPLATE = (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8").rstrip("\n")
