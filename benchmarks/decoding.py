"""Batched greedy decoding against `transformers`' generate, and the memory that the caches take.

Shapes: B sequences, T positions, S positions, generated ones included.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from benchmarks.harness import Entry, alternate, compare
from benchmarks.peers import twin, use_fastest
from benchmarks.scale import Scale, build, random_batch
from k2core.inference.sampler import generate
from k2core.model.cache import KeyValueCache
from k2core.model.config import ModelConfig
from k2core.model.transformer import Transformer

TOPIC = "decoding"
AGREEMENT = 0.9
"""Share of tokens that both must have in common: a near tie may fall either way, and what follows it then differs."""


def run(scale: Scale) -> list[Entry]:
    """Two entries for each of the first two models."""
    entries = []
    for size, config in list(scale.models.items())[:2]:
        model = build(config)
        peer = twin(model)
        prompts_BT, _ = random_batch(config, scale.sequences, scale.prompt)
        ours, theirs = (
            our_decoding(model, prompts_BT, scale.new_tokens),
            peer_decoding(peer, prompts_BT, scale.new_tokens),
        )
        fastest = use_fastest(peer, theirs, tokens=prompts_BT.numel(), training=False)
        agreement = float((ours() == theirs()).float().mean())
        if agreement < AGREEMENT:
            raise RuntimeError(f"the two decoders have only {agreement:.0%} of their tokens in common")
        times = alternate({"ours": ours, "peer": theirs}, rounds=scale.rounds, seconds=scale.seconds)
        tokens = scale.sequences * scale.new_tokens
        entries += [
            compare(
                f"decoding at batch {scale.sequences}, {size}", [tokens / t for t in times["ours"]],
                [tokens / t for t in times["peer"]], unit="tokens/s", ratio_of="ours / peer", better="higher",
                goal=5.0, topic=TOPIC,
                note=f"transformers' generate, {fastest}; {scale.new_tokens} tokens after {scale.prompt}",
            ),
            compare(
                f"cache of a token, {size}", [our_cache_bytes(model)], [multi_head_cache_bytes(config)],
                unit="bytes", ratio_of="peer / ours", better="higher", goal=None, topic=TOPIC,
                note="plain multi-head attention (transformers' Llama) with as many layers and heads",
            ),
        ]  # fmt: skip
    return entries


def our_decoding(model: Transformer, prompts_BT: Tensor, new_tokens: int) -> Callable[[], Tensor]:
    """The sampler; returns the new tokens [B, new]."""
    prompts = prompts_BT.tolist()

    def work() -> Tensor:
        completions = generate(
            model, prompts, max_new_tokens=new_tokens, temperature=0, stop_ids=set(), seed=1, batch_size=len(prompts)
        )
        return torch.tensor([completion.tokens for completion in completions])

    return work


def peer_decoding(peer: PreTrainedModel, prompts_BT: Tensor, new_tokens: int) -> Callable[[], Tensor]:
    """`transformers`' generate; returns the new tokens [B, new]."""
    peer.eval()

    def work() -> Tensor:
        tokens_BS = peer.generate(
            prompts_BT, attention_mask=torch.ones_like(prompts_BT), max_new_tokens=new_tokens, do_sample=False,
            pad_token_id=0,
        )  # fmt: skip
        return tokens_BS[:, prompts_BT.shape[1] :]

    return work


def our_cache_bytes(model: Transformer) -> float:
    """Bytes of our cache per token, from its tensors."""
    sequences, slots = 2, 8
    cache = KeyValueCache(model.config, sequences, slots, like=model.lm_head.weight)
    return sum(layer.nbytes for layer in cache.layers) / (sequences * slots)


@torch.inference_mode()
def multi_head_cache_bytes(config: ModelConfig) -> float:
    """Bytes per token of the cache of plain multi-head attention with as many layers and heads of the value's width.

    From the tensors that a Llama of that shape fills; the width is the one DeepSeek-V2 compares with (§2.1.4).
    """
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size, hidden_size=config.hidden_size, intermediate_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers, num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_attention_heads, head_dim=config.v_head_dim,
        )
    )  # fmt: skip
    tokens_BT, _ = random_batch(config, 2, 8)
    cache = llama(tokens_BT, use_cache=True).past_key_values
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) / tokens_BT.numel()
