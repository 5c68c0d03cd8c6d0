"""The recipe's choice of device, precision and backend of `k2core.ops`, for this process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from k2core.recipe.section import RecipeError

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda"]
Backend = Literal["auto", "reference", "cpu", "cuda"]
Precision = Literal["fp32", "bf16"]

backend: Backend = "auto"
"""What the recipe wants; `k2core.ops.backend` reads it."""
precision: Precision = "fp32"
"""What the recipe wants; `k2core.model.transformer` reads it."""
_here: torch.device | None = None


def choose(device: Device, wanted: Backend, wanted_precision: Precision = "fp32") -> None:
    """Have this process compute on `device`, of several GPUs on the one with its number on this machine.

    Raises:
        RecipeError: there is no such device, or the backend is not for it or for the precision.
    """
    import torch

    global backend, precision, _here
    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        raise RecipeError("compute.device is cuda, but torch finds no GPU here; set it to auto or cpu")
    gpu = device == "cuda" or (device == "auto" and found)
    if gpu and wanted == "cpu":
        raise RecipeError(f"compute.backend is cpu, but compute.device {device} is a GPU here; set device to cpu")
    if not gpu and wanted == "cuda":
        raise RecipeError(f"compute.backend is cuda, but compute.device {device} is the CPU here; set backend to auto")
    if wanted == "cpu" and wanted_precision == "bf16":
        raise RecipeError("compute.backend is cpu, whose kernels are fp32, but precision is bf16; set backend to auto")
    backend, precision = wanted, wanted_precision
    _here = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(_here)


def here() -> torch.device:
    """The device that models and batches of this process go to; the CPU where no recipe has chosen one."""
    import torch

    return _here or torch.device("cpu")
