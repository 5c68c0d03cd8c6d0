"""Builds and loads the kernels: the C files of this folder, compiled once for this processor and kept."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from k2core.machine import device
from k2core.recipe import RecipeError

FOLDER = Path(__file__).parent
BUILT = FOLDER / "__pycache__"
"""Where Python keeps the compiled modules of this folder."""
FLAGS = (
    "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-fvisibility=hidden",
    # sums in vectors; NaN and infinity are kept
    "-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math",
)  # fmt: skip

_forked = False
"""A forked process lacks its parent's threads, and OpenMP would wait for them."""


def _single_threaded() -> None:
    global _forked
    _forked = True


os.register_at_fork(after_in_child=_single_threaded)


def call(name: str, *arguments: Tensor | ctypes.Structure | ctypes.Array | int | float | None) -> int:
    """Run a kernel on the threads that torch may use; tensors and structures become pointers, integers int64.

    Returns the kernel's result where it is an `int`.
    """
    threads = 1 if _forked else torch.get_num_threads()
    return getattr(loaded(), name)(*map(_argument, arguments), ctypes.c_int64(threads))


def _argument(value: Tensor | ctypes.Structure | ctypes.Array | int | float | None) -> Any:
    if value is None:
        return ctypes.c_void_p(None)
    if isinstance(value, Tensor):
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, (ctypes.Structure, ctypes.Array)):
        return ctypes.byref(value)
    return ctypes.c_int64(value) if isinstance(value, int) else ctypes.c_float(value)


def loaded() -> ctypes.CDLL:
    """`library()`, which exists wherever this backend was chosen."""
    kernels = library()
    if kernels is None:
        raise RuntimeError("the kernels could not be built, so nothing of this backend can be called")
    return kernels


@functools.cache
def library() -> ctypes.CDLL | None:
    """The loaded kernels, or None, with a warning, where they cannot be built: then everything runs without them.

    Raises:
        RecipeError: they cannot be built, and the recipe's `compute.backend` insists on them.
    """
    compiler = os.environ.get("CC") or "cc"
    try:
        loaded = ctypes.CDLL(str(_built(shlex.split(compiler))))
        loaded.packed_floats.restype = ctypes.c_int64
        return loaded
    except (OSError, AttributeError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", None) or str(error)).strip()[-500:]
        if device.backend == "cpu":
            raise RecipeError(
                f"compute.backend is cpu, but its kernels could not be built with the C compiler {compiler!r}: install "
                f"GCC, set CC to it, or set compute.backend to auto. {reason}"
            ) from None
        logging.getLogger(__name__).warning(
            "the CPU kernels could not be built with the C compiler %r (set CC to another one): everything runs "
            "without them; training takes about 1.2 times and decoding 3 times as long. %s", compiler, reason,
        )  # fmt: skip
        return None


def _built(compiler: list[str]) -> Path:
    """The shared library; compiled unless these sources already were, by this compiler for this kind of processor."""
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout
    sources = sorted(FOLDER.glob("*.[ch]"))
    identity = [version, " ".join(FLAGS), _processor(), *(source.read_text() for source in sources)]
    digest = hashlib.sha256("\0".join(identity).encode()).hexdigest()[:16]
    built = BUILT / f"kernels-{digest}.so"
    if not built.exists():
        BUILT.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILT) as scratch:
            made = Path(scratch) / built.name
            files = [str(source) for source in sources if source.suffix == ".c"]
            command = [*compiler, *FLAGS, *files, "-o", str(made), "-lm"]
            subprocess.run(command, capture_output=True, text=True, check=True)
            os.replace(made, built)
    return built


def _processor() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return os.uname().machine
    return next((line for line in lines if line.startswith(("flags", "Features"))), os.uname().machine)
