"""A model as a folder: its weights and `config.json` (a `ModelConfig`).

One process writes `model.safetensors`. Several write the folder `model/` instead, each its own part (`parts.py`), since
no machine may have room for the whole. Readers take both.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from k2core.machine.device import here
from k2core.model.config import ModelConfig, YarnConfig
from k2core.model.parts import read_parts, write_parts
from k2core.model.transformer import Transformer
from k2core.recipe import validate
from k2core.storage import StorageError, write_json
from k2core.storage.disk import of_the_machine

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def save_model(model: Transformer, folder: Path) -> None:
    """Write weights, router biases and configuration; the bytes depend on them alone, and on how they are divided.

    Of several processes all must call it; what counts is the first one's `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(model.state_dict(), folder / WEIGHTS)
    write_json(folder / CONFIG, model.config.model_dump(mode="json"))


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write the safetensors file `path`, or with several processes the folder of that name without its suffix."""
    if torch.distributed.is_initialized():
        write_parts(tensors, path.with_suffix(""))
    else:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, path)


def load_model(folder: Path, rope_scaling: YarnConfig | Literal["keep"] | None = "keep") -> Transformer:
    """The whole model in `folder`, in training mode, on this process's device; touches no random state.

    Args:
        rope_scaling: another context extension than the saved one (the weights do not depend on it).

    Raises:
        StorageError: a file is missing or torn, or the weights are not those of the configuration.
        RecipeError: `config.json` is not a valid `ModelConfig`.
    """
    config = read_config(folder, rope_scaling)
    if (folder / WEIGHTS).with_suffix("").is_dir():
        model = drawn(config)
        load_tensors(model.state_dict(), folder / WEIGHTS)
        return model.to(here())
    tensors = read_tensors(folder / WEIGHTS)
    try:
        return assembled(config, tensors)
    except RuntimeError as error:
        raise StorageError(f"{folder / WEIGHTS}: not the weights of {folder / CONFIG}: {error}") from None


def load_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Fill `tensors`, each process its own parts, from what `save_tensors` has written; it may be others' too.

    Raises:
        StorageError: a tensor is missing or torn, or has another shape.
    """
    parts = path.with_suffix("")
    if not parts.is_dir() and not path.exists():
        raise StorageError(f"{path}: no such file; run the stage that makes it (`dvc repro`)")
    read_parts(tensors, parts if parts.is_dir() else path.parent)


def assembled(config: ModelConfig, tensors: dict[str, Tensor]) -> Transformer:
    """The model of these weights, in training mode, on this process's device; touches no random state.

    Raises:
        RuntimeError: they are not those of the configuration.
    """
    model = drawn(config)
    model.load_state_dict(tensors)
    return model.to(here())


def drawn(config: ModelConfig) -> Transformer:
    """A model of this shape whose weights are of no use."""
    with torch.random.fork_rng(devices=[]):
        return Transformer(config)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name.

    Raises:
        StorageError: the file is missing or torn.
    """
    try:
        return load_file(path)
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file; run the stage that makes it (`dvc repro`)") from None
    except (SafetensorError, OSError) as error:
        if of_the_machine(error):
            raise
        raise StorageError(f"{path}: not a whole safetensors file ({error}); delete it, re-run its stage") from None


def read_config(folder: Path, rope_scaling: YarnConfig | Literal["keep"] | None = "keep") -> ModelConfig:
    """The shape of the model in `folder`, maybe with another context extension.

    Raises:
        StorageError: the file is missing or torn.
        RecipeError: it is not a valid `ModelConfig`.
    """
    path = folder / CONFIG
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file; run the stage that makes it (`dvc repro`)") from None
    except ValueError as error:
        raise StorageError(f"{path}: not valid JSON ({error}); delete the folder and re-run its stage") from None
    config = validate(ModelConfig, content, str(path))
    return config if rope_scaling == "keep" else config.with_rope_scaling(rope_scaling)
