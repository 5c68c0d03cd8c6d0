"""A Hugging Face `deepseek_v3` folder of the final model, proven to load in transformers with equal logits.

The folder holds weights, configuration, generation settings, the tokenizer with its chat template, a model card with
the scorecard, and a data card.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from k2core.machine import Compute
from k2core.recipe import Section
from k2core.stage import Job, Metrics, StageError, main

if TYPE_CHECKING:
    from k2core.model.transformer import Transformer

SECTION = "export"
MAX_LOGIT_DIFFERENCE = 1e-3
DATA_CARD, MODEL_CARD = "DATA.md", "README.md"


class Params(Section):
    """Section `export`."""

    name: str = Field(min_length=1, description="the model's name in its card")
    shard_megabytes: int = Field(ge=1, description="of the largest weight file; more weights are several files")
    check_sequences: int = Field(ge=1, description="random sequences on which the logits are compared")
    check_tokens: int = Field(ge=1, description="length of each; at most the model's context")


def run(
    params: Params,
    compute: Compute,
    model: Path,
    tokenizer: Path,
    scorecard: Path,
    sources: Path,
    funnel: Path,
    mixture: Path,
    figures: Path,
    out: Path,
    job: Job,
) -> Metrics:
    """Write `out` and compare what transformers loads from it with `model`."""
    compute.model_copy(update={"precision": "fp32"}).apply()  # the weights are; bf16 would compare its own rounding
    from k2core.chat.tokenizer import Tokenizer
    from k2core.formats.huggingface import save_huggingface
    from k2core.model.counts import activated, total_parameters
    from k2core.model.files import load_model
    from k2core.report.data_card import data_card
    from k2core.report.model_card import model_card

    network, tok = load_model(model), Tokenizer.load(tokenizer)
    config = network.config
    if tok.vocab_size != config.vocab_size:
        raise StageError(
            f"{tokenizer} has {tok.vocab_size} entries but {model} has {config.vocab_size}; re-run the chain from "
            "train_tokenizer on, so that both are of one recipe"
        )
    if params.check_tokens > config.max_position_embeddings:
        raise StageError(
            f"export.check_tokens is {params.check_tokens}, more than the model's context of "
            f"{config.max_position_embeddings} tokens; lower it"
        )
    try:
        save_huggingface(
            network, out, eos_token_ids=[tok.im_end_id, tok.eos_id], shard_bytes=params.shard_megabytes * 10**6
        )
    except ValueError as error:
        raise StageError(f"{model}: {error}") from None
    for file in sorted(tokenizer.iterdir()):
        shutil.copyfile(file, out / file.name)
    found = {
        "export/parameters": float(total_parameters(network)),
        "export/activated_parameters": float(activated(config)),
        "export/max_logit_difference": _compare(network, out, params, compute.seed),
    }
    card = model_card(params.name, config, found, json.loads(scorecard.read_text()), DATA_CARD)
    (out / MODEL_CARD).write_text(card, encoding="utf-8")
    (out / DATA_CARD).write_text(data_card(params.name, sources, funnel, mixture, figures), encoding="utf-8")
    job.say(f"transformers loads {out.name} with logits equal within {found['export/max_logit_difference']:.1e}")
    return found


def _compare(network: Transformer, folder: Path, params: Params, seed: int) -> float:
    """Largest difference of a logit between our model and what transformers loads, where no rounding decides.

    Raises:
        StageError: a weight is missing or superfluous, the tokenizer's size is another, or the logits differ.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from k2core.formats.agreement import logit_difference

    both: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    loaded, info = both
    odd = [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in sorted(info[kind])]
    if odd:
        raise StageError(f"transformers does not take all weights: {', '.join(map(str, odd[:5]))}")
    entries = len(AutoTokenizer.from_pretrained(folder, local_files_only=True))
    if entries != network.config.vocab_size:
        raise StageError(f"transformers reads {entries} tokenizer entries; the model has {network.config.vocab_size}")
    shape = (params.check_sequences, params.check_tokens)
    tokens = torch.randint(0, network.config.vocab_size, shape, generator=torch.Generator().manual_seed(seed))
    tokens, loaded = tokens.to(network.device), loaded.to(network.device)
    difference, compared = logit_difference(network, lambda ids: loaded(ids).logits, tokens)
    if not compared:
        raise StageError("no position on which to compare the logits; raise export.check_sequences")
    if not difference <= MAX_LOGIT_DIFFERENCE:
        raise StageError(f"logits in transformers differ by {difference:.2g}, more than {MAX_LOGIT_DIFFERENCE}")
    return difference


if __name__ == "__main__":
    main(run, SECTION)
