"""`transformers`' DeepseekV3ForCausalLM with our weights, in whichever of its implementations is the fastest.

Shapes: B sequences, T positions, V vocabulary.
"""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

from benchmarks.harness import Work
from k2core.formats.huggingface import save_huggingface
from k2core.model.loss import cross_entropy
from k2core.model.transformer import Transformer

ATTENTIONS = ("sdpa", "eager")
EXPERTS = ("grouped_mm", "eager", "batched_mm")
MOST_COPIED_BYTES = 2**30
"""`batched_mm` copies an expert for each token that visits it. Beyond this much it is left out: it was ten times
slower than the others there, and soon takes all memory."""


def twin(model: Transformer) -> PreTrainedModel:
    """`model` exported and loaded by `transformers`, without a stop token."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        save_huggingface(model, Path(folder), eos_token_ids=[0])
        peer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    peer.generation_config.eos_token_id = None
    return peer


def use_fastest(peer: PreTrainedModel, work: Work, *, tokens: int, training: bool) -> str:
    """Switch `peer` to the attention, then the experts, with which `work` takes least time; names them.

    Args:
        tokens: that the longest forward pass of `work` reads.
        training: copies of all layers are kept at once, for the backward pass.
    """
    config = peer.config
    expert_bytes = 3 * config.moe_intermediate_size * config.hidden_size * 4
    layers = config.num_hidden_layers - config.first_k_dense_replace if training else 1
    copied_bytes = tokens * config.num_experts_per_tok * expert_bytes * layers
    experts = [name for name in EXPERTS if name != "batched_mm" or copied_bytes <= MOST_COPIED_BYTES]

    @functools.cache
    def seconds(choice: tuple[str, str]) -> float:
        _use(peer, *choice)
        return min(_seconds(work), _seconds(work))

    attention, _ = min(((attention, EXPERTS[0]) for attention in ATTENTIONS), key=seconds)
    best = min(((attention, name) for name in experts), key=seconds)
    _use(peer, *best)
    return f"attention {best[0]}, experts {best[1]}"


def _use(peer: PreTrainedModel, attention: str, experts: str) -> None:
    peer.set_attn_implementation(attention)
    peer.set_experts_implementation(experts)


def _seconds(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def our_pass(model: Transformer, tokens_BT: Tensor, targets_BT: Tensor) -> Work:
    """Forward and backward of our model; the largest logits are recorded as in any training."""
    return _pass(model, lambda: cross_entropy(model(tokens_BT), targets_BT))


def peer_pass(peer: PreTrainedModel, tokens_BT: Tensor, targets_BT: Tensor) -> Work:
    """The same of `transformers`' model, with torch's loss."""

    def loss() -> Tensor:
        logits_BTV = peer(tokens_BT, use_cache=False).logits
        return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())

    return _pass(peer, loss)


def _pass(module: torch.nn.Module, loss: Callable[[], Tensor]) -> Work:
    def work() -> None:
        module.zero_grad()
        loss().backward()

    return work
