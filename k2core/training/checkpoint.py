"""Checkpoints of a running training: whole or absent, the newest sound one is continued.

A checkpoint is a folder `step-N` with the model, the optimiser and `state.json`, which also holds a digest of the
other files: a torn file (a full disk, a power cut) is recognised and the checkpoint before it is used.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from k2core.model.files import load_model, read_tensors, save_model
from k2core.storage import StorageError, dvc_md5, publish, write_json
from k2core.storage.atomic import remove

KEPT = 2
OPTIMIZER = "optimizer.safetensors"


def save(folder: Path, step: int, model: Any, optimizer: Any, state: dict[str, Any]) -> None:
    """Write `folder/step-N` and drop all but the newest `KEPT`; `state` must be JSON without NaN."""
    with publish(folder / f"step-{step:08d}") as scratch:
        save_model(model, scratch)
        save_optimizer(optimizer, scratch)
        digests = {file.name: dvc_md5(file) for file in sorted(scratch.iterdir())}
        write_json(scratch / "state.json", {"files": digests, **state})
    for old in _newest_first(folder)[KEPT:]:
        remove(old)


def restore(folder: Path, model: Any, optimizer: Any) -> tuple[dict[str, Any] | None, list[str]]:
    """Put the newest sound checkpoint into `model` and `optimizer`.

    Returns:
        Its state, None if there is no sound one; and one sentence for each checkpoint that was passed over.
    """
    faults = []
    for candidate in _newest_first(folder):
        try:
            state = _read_state(candidate)
            model.load_state_dict(load_model(candidate).state_dict())
            load_optimizer(optimizer, candidate)
        except StorageError as error:
            faults.append(f"checkpoint passed over: {error}")
            continue
        return state, faults
    return None, faults


def save_optimizer(optimizer: Any, folder: Path) -> None:
    """Write `optimizer.safetensors` beside a model."""
    tensors = {name: tensor.contiguous() for name, tensor in optimizer.state_dict().items()}
    save_file(tensors, folder / OPTIMIZER)


def load_optimizer(optimizer: Any, folder: Path) -> None:
    """Continue with the optimiser state in `folder`.

    Raises:
        StorageError: there is none, it is torn, or it belongs to another model.
    """
    tensors = read_tensors(folder / OPTIMIZER)
    try:
        optimizer.load_state_dict(tensors)
    except ValueError as error:
        raise StorageError(f"{folder / OPTIMIZER}: {error}") from None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _read_state(folder: Path) -> dict[str, Any]:
    path = folder / "state.json"
    try:
        state = json.loads(path.read_text())
        files = state.pop("files")
    except (OSError, ValueError, KeyError) as error:
        raise StorageError(f"{path} is not readable ({error})") from None
    for name, digest in files.items():
        if not (folder / name).exists() or dvc_md5(folder / name) != digest:
            raise StorageError(f"{folder / name} is torn")
    return state


from k2core.recipe import Section
class CheckpointConfig(Section):
    TRACKED=False
    keep: int; permanent_every: int; mirror: str; resume_from: str; accept: list[str]
class Checkpoints:
    def __init__(self, folder, settings, fingerprint, say): self.folder, self.say = folder, say
    def restore(self, model, optimizer):
        state, faults = restore(self.folder, model, optimizer)
        for f in faults: self.say(f)
        return state
    def save(self, step, model, optimizer, state): save(self.folder, step, model, optimizer, state)
    def finish(self): pass
