"""To and from Hugging Face's `deepseek_v3`: same numbers, one tensor per matrix, other names for stacked weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from k2core.model.config import ModelConfig, YarnConfig
from k2core.model.files import assembled, read_tensors
from k2core.model.transformer import Transformer
from k2core.recipe import validate
from k2core.storage import StorageError, write_json

PREFIX = "model."
HEAD = "lm_head.weight"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9
"""Hugging Face's usual largest file."""
GATE_UP, DOWN = "gate_up_proj", "down_proj"


def to_huggingface(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under `deepseek_v3`'s names and shapes; tensors are copied bit for bit."""
    result: dict[str, Tensor] = {}
    for name, tensor in state.items():
        parent, _, leaf = name.rpartition(".")
        for target, part in _split(parent, leaf, tensor) if leaf in (GATE_UP, DOWN) else [(name, tensor)]:
            result[target if target == HEAD else PREFIX + target] = part.clone(memory_format=torch.contiguous_format)
    return result


def _split(parent: str, leaf: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """The matrices of one stacked weight: `gate_up_proj` [..., 2, F, D] or `down_proj` [..., D, F]."""
    if parent.endswith(".experts"):
        return [pair for e, expert in enumerate(tensor) for pair in _split(f"{parent}.{e}", leaf, expert)]
    if leaf == GATE_UP:
        return [(f"{parent}.gate_proj.weight", tensor[0]), (f"{parent}.up_proj.weight", tensor[1])]
    return [(f"{parent}.down_proj.weight", tensor)]


def from_huggingface(state: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The inverse of `to_huggingface`, for a checkpoint with one tensor per matrix.

    Raises:
        KeyError: a tensor that the model needs is not in `state`.
        ValueError: the model has plain multi-head attention, or `state` has tensors that the model does not know.
    """
    _check(config)
    with torch.device("meta"):
        ours = Transformer(config).state_dict()
    names = to_huggingface(ours)
    unknown = sorted(set(state) - set(names))
    if unknown:
        raise ValueError(f"tensors that a deepseek_v3 model of this shape does not have: {', '.join(unknown[:5])}")
    missing = sorted(set(names) - set(state))
    if missing:
        raise KeyError(f"tensors missing from the checkpoint: {', '.join(missing[:5])}")
    result: dict[str, Tensor] = {}
    for name, like in ours.items():
        parent, _, leaf = name.rpartition(".")
        if leaf in (GATE_UP, DOWN):
            parts = [state[PREFIX + source] for source, _ in _split(parent, leaf, like)]
            result[name] = torch.stack(parts).view(like.shape)
        else:
            result[name] = state[name if name == HEAD else PREFIX + name].clone()
    return result


def load_huggingface(folder: Path) -> Transformer:
    """The `deepseek_v3` model of a folder, as `save_huggingface`, `transformers` or K2's release write it.

    Raises:
        StorageError: a file is missing or torn, or it is no such model.
        RecipeError: a value of `config.json` is not one that `ModelConfig` allows.
    """
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file; name an exported model (`make demo` makes one)") from None
    except ValueError as error:
        raise StorageError(f"{path}: not valid JSON ({error}); export the model again") from None
    kind = content.get("model_type") if isinstance(content, dict) else None
    if kind != "deepseek_v3":
        raise StorageError(f"{path}: model_type is {kind!r}, and only 'deepseek_v3' can be loaded; see `stages.export`")
    yarn = content.get("rope_scaling")
    known = {name: content[name] for name in ModelConfig.model_fields if name in content} | {"attention": "mla"}
    if yarn:
        known["rope_scaling"] = {name: yarn[name] for name in YarnConfig.model_fields if name in yarn}
    config = validate(ModelConfig, known, str(path))
    tensors: dict[str, Tensor] = {}
    for part in sorted(folder.glob("*.safetensors")):
        tensors |= read_tensors(part)
    try:
        state = from_huggingface(tensors, config)
    except (KeyError, ValueError) as error:
        raise StorageError(f"{folder}: its weights are not those of its config.json: {error}") from None
    return assembled(config, state)


def _check(config: ModelConfig) -> None:
    if config.attention != "mla":
        raise ValueError(
            f"attention is {config.attention}, but Hugging Face's deepseek_v3 has only multi-head latent attention "
            "(mla); a model with plain multi-head attention stays in this project's format"
        )


def huggingface_config(config: ModelConfig, *, eos_token_ids: list[int], dtype: str = "float32") -> dict[str, Any]:
    """`config.json` of a `deepseek_v3` checkpoint, in the form of K2's release.

    Raises:
        ValueError: the model has plain multi-head attention.
    """
    _check(config)
    yarn = config.rope_scaling
    return config.model_dump(mode="json", exclude={"attention"}) | {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "rope_scaling": {"type": "yarn", **yarn.model_dump(mode="json")} if yarn else None,
        "num_key_value_heads": config.num_attention_heads,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "moe_layer_freq": 1,
        "num_nextn_predict_layers": 0,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": eos_token_ids,
        "torch_dtype": dtype,
    }


def save_huggingface(
    model: Transformer, folder: Path, *, eos_token_ids: list[int], shard_bytes: int = SHARD_BYTES
) -> None:
    """Write a folder that `transformers.AutoModelForCausalLM.from_pretrained` loads.

    Args:
        shard_bytes: of the largest weight file; more weights are several files with an index, as Hugging Face has them.

    Raises:
        ValueError: the model has plain multi-head attention.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    _check(model.config)
    folder.mkdir(parents=True, exist_ok=True)
    state = to_huggingface(model.state_dict())
    split = split_torch_state_dict_into_shards(state, max_shard_size=shard_bytes)
    for name, keys in split.filename_to_tensors.items():
        save_file({key: state[key] for key in keys}, folder / name, metadata={"format": "pt"})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": dict(sorted(split.tensor_to_filename.items()))}
        write_json(folder / INDEX, index)
    write_json(folder / "config.json", huggingface_config(model.config, eos_token_ids=eos_token_ids))
    write_json(folder / "generation_config.json", {"do_sample": True, "eos_token_id": eos_token_ids})
