"""JSON that others wrote."""

from __future__ import annotations

import json
from typing import Any

from k2core.storage.foreign import whole_escapes


def parse_json(text: str, **hooks: Any) -> Any:
    """`json.loads`, without lone surrogates; nesting beyond Python's stack is not JSON either.

    Raises:
        ValueError: `text` is not JSON.
    """
    try:
        return json.loads(whole_escapes(text), **hooks)
    except RecursionError:
        raise ValueError("nested too deeply") from None
