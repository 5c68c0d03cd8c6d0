"""torch's compiler. It takes seconds to import, so nothing here is called before something is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """`torch.compile(function, **options)`, with room for the variants that shapes, types and modes make.

    Beyond torch's limit of 8 a function would go on uncompiled, with a warning at most.
    """
    import torch
    from torch._dynamo import config

    config.recompile_limit = 64
    return torch.compile(function, **options)
