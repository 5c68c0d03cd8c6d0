"""A model as a folder: `model.safetensors` and `config.json` (a `ModelConfig`)."""

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
from k2core.model.sharded import everything
from k2core.model.transformer import Transformer
from k2core.recipe import validate
from k2core.storage import StorageError, write_json
from k2core.storage.disk import of_the_machine

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


def save_model(model: Transformer, folder: Path) -> None:
    """Write weights, router biases and configuration; the bytes depend on them alone.

    A model spread over processes is gathered: all of them must call it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = everything(model.state_dict(), model.stages)
    save_file(tensors, folder / WEIGHTS)
    write_json(folder / CONFIG, model.config.model_dump(mode="json"))


def load_model(folder: Path, rope_scaling: YarnConfig | Literal["keep"] | None = "keep") -> Transformer:
    """The model in `folder`, in training mode, on this process's device; touches no random state.

    Args:
        rope_scaling: another context extension than the saved one (the weights do not depend on it).

    Raises:
        StorageError: a file is missing or torn, or the weights are not those of the configuration.
        RecipeError: `config.json` is not a valid `ModelConfig`.
    """
    config = _read_config(folder / CONFIG)
    if rope_scaling != "keep":
        config = config.with_rope_scaling(rope_scaling)
    tensors = read_tensors(folder / WEIGHTS)
    try:
        return assembled(config, tensors)
    except RuntimeError as error:
        raise StorageError(f"{folder / WEIGHTS}: not the weights of {folder / CONFIG}: {error}") from None


def assembled(config: ModelConfig, tensors: dict[str, Tensor]) -> Transformer:
    """The model of these weights, in training mode, on this process's device; touches no random state.

    Raises:
        RuntimeError: they are not those of the configuration.
    """
    with torch.random.fork_rng(devices=[]):
        model = Transformer(config)
    model.load_state_dict(tensors)
    return model.to(here())


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


def _read_config(path: Path) -> ModelConfig:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file; run the stage that makes it (`dvc repro`)") from None
    except ValueError as error:
        raise StorageError(f"{path}: not valid JSON ({error}); delete the folder and re-run its stage") from None
    return validate(ModelConfig, content, str(path))
