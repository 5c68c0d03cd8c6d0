"""The whole model. Parameter names follow `deepseek_v3`, except for the stacked feed-forwards (see huggingface.py).

Shapes: B sequences, T positions, S key positions, N tokens, D hidden width, H heads, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from k2core import ops
from k2core.machine import device
from k2core.model.attention import Attention
from k2core.model.block import Block
from k2core.model.cache import KeyValueCache
from k2core.model.config import ModelConfig
from k2core.model.linear import Linear
from k2core.model.loss import IGNORE, token_losses
from k2core.model.norm import RMSNorm
from k2core.model.rope import RotaryEmbedding
from k2core.model.router import Router
from k2core.model.visibility import WholeRows

LOGITS = 2**27
"""Logits that are there at once where only losses are wanted: 0.5 GB in fp32."""


class Transformer(nn.Module):
    """A K2-shaped language model.

    Initial weights: every matrix (embedding, head, router and each expert's included, no scaling by depth) is drawn
    from N(0, `initializer_range`²), norms are 1 and router biases 0, as in DeepSeek-V3 §4.2 (0.006 there; K2's report
    names no value). They come from torch's default generator: seed it first. Under ``with torch.device("meta")``
    nothing is allocated, whatever the size.

    `rows` says which columns of its rows a forward pass is given: all, unless processes share them. `logits_above` says
    which largest logits passes with gradient must find out: those above it, all at -inf. `pipeline` is None unless
    processes share the layers (`k2core/training/pipeline.py`). While not `counting`, routers and attentions record
    nothing of passes with gradient either.
    """

    pipeline: Any = None
    counting = True

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config, self.rows, self.logits_above = config, WholeRows(), -math.inf
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, index) for index in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)
        self.rotary = RotaryEmbedding(config)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=config.initializer_range)

    @property
    def stages(self) -> ProcessGroup | None:
        """The processes with the other layers; None: there are none."""
        return self.pipeline.group if self.pipeline else None

    @property
    def device(self) -> torch.device:
        """The device of the weights, where a forward pass's inputs must be too."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of activations and of the cache: the weights', unless the recipe says bf16.

        The operations use weights in the type of what they multiply, so fp32 weights stay fp32 for the optimiser, and
        their gradients are fp32. Router, rotation, statistics of norms, and loss are fp32 in either case.
        """
        return torch.bfloat16 if device.precision == "bf16" else next(self.parameters()).dtype

    def forward(
        self, tokens_BT: Tensor, positions_BT: Tensor | None = None, segments_BT: Tensor | None = None,
        wanted_BT: Tensor | None = None, targets_BT: Tensor | None = None, scored_BT: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Logits of the next token, [B, T, V], or [M, V] at the M positions where `wanted_BT` is true.

        Args:
            positions_BT: rotary positions; the columns 0, 1, 2, … by default.
            segments_BT: attention stays within equal segment numbers (packed documents), and branches see what they
                branch from (`k2core.ops.BRANCH`); one segment by default.
            targets_BT: with them the result is their loss instead: the sum over all that are not `IGNORE`, in nats.
            scored_BT: targets too, but the result is the loss of each, [B, T], in nats, fp32; 0 where it is `IGNORE`.
        """
        hidden_BTD = self.hidden(tokens_BT, positions_BT, segments_BT)
        if targets_BT is not None:
            return ops.head_loss(hidden_BTD.flatten(0, 1), self.lm_head.weight, targets_BT.flatten(), IGNORE)
        if scored_BT is not None:
            return self._scored(hidden_BTD.flatten(0, 1), scored_BT.flatten()).view_as(scored_BT)
        return self.lm_head(hidden_BTD if wanted_BT is None else hidden_BTD[wanted_BT])

    def _scored(self, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
        """The loss of each target, [N], with no more than `LOGITS` logits at a time."""
        rows = max(1, LOGITS // self.config.vocab_size)
        pairs = zip(hidden_ND.split(rows), targets_N.split(rows), strict=True)
        return torch.cat([token_losses(self.lm_head(hidden), targets) for hidden, targets in pairs])

    def on_cpu(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """`forward` with inputs and result on the CPU, for measuring."""
        moved = [value.to(self.device) for value in inputs]
        more = {name: value.to(self.device) for name, value in named.items()}
        return (self.pipeline.logits if self.pipeline else self)(*moved, **more).cpu()

    def hidden(
        self, tokens_BT: Tensor, positions_BT: Tensor | None = None, segments_BT: Tensor | None = None
    ) -> Tensor:
        """The normalised residual stream before the head, [B, T, D]."""
        T = tokens_BT.shape[1]
        if positions_BT is None:
            positions_BT = self.rows.columns(T, tokens_BT.device)[None]
        x_BTD = self._embedded(tokens_BT)
        observed = torch.is_grad_enabled() and self.counting
        reach = self.rows.reach(T, segments_BT)
        reach.above = self.logits_above if observed else math.inf
        ops.prepare(reach, x_BTD, (self.config.qk_head_dim, self.config.v_head_dim))
        rotation = self.rotary(positions_BT)
        with self._observed(observed):
            for layer in self.blocks():
                x_BTD = layer(x_BTD, rotation, reach)
        return self.norm(x_BTD)

    def prefill(
        self, tokens_BT: Tensor, cache: KeyValueCache, positions_BT: Tensor | None = None,
        segments_BT: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Store rows, as `forward` reads them, in `cache`; the last layer's output is not needed and not computed."""
        T = tokens_BT.shape[1]
        x_BTD = self._embedded(tokens_BT)
        reach = self.rows.reach(T, segments_BT)
        reach.above = math.inf
        ops.prepare(reach, x_BTD, (self.config.qk_head_dim, self.config.v_head_dim))
        rotation = self.rotary(self.rows.columns(T, tokens_BT.device)[None] if positions_BT is None else positions_BT)
        *before, last = self.blocks()
        for layer in before:
            x_BTD = layer(x_BTD, rotation, reach, cache)
        cache.write_prompts(last.index, last.self_attn.cached(last.input_layernorm(x_BTD), rotation))

    def decode(self, tokens_B: Tensor, cache: KeyValueCache) -> Tensor:
        """Logits [B, V] after one more token per sequence, which enters `cache`."""
        x_BD, mask_B1S = self._embedded(tokens_B), cache.mask()
        rotation = self.rotary(cache.lengths_B)
        for layer in self.blocks():
            x_BD = layer.decode(x_BD, rotation, mask_B1S, cache.layers[layer.index], cache.lengths_B)
        cache.lengths_B += 1
        return self.lm_head(self.norm(x_BD))

    def _embedded(self, tokens: Tensor) -> Tensor:
        return self.embed_tokens(tokens).to(self.dtype)

    @contextmanager
    def _observed(self, on: bool) -> Iterator[None]:
        """Within the block, attentions and routers record maxima and counts if `on`.

        A recomputation of activations starts in the backward pass, outside the block, and is not recorded.
        """
        observers: list[Attention | Router] = [*self.attentions(), *self.routers()]
        for observer in observers:
            observer.observing = on
        try:
            yield
        finally:
            for observer in observers:
                observer.observing = False

    def forget(self) -> None:
        """Forget the largest logits and the counts of earlier passes."""
        for attention in self.attentions():
            attention.max_logit_H.fill_(-torch.inf)
        for router in self.routers():
            router.tokens_per_expert_E.zero_()

    def allocate(self, to: torch.device) -> None:
        """Give a model on the meta device memory on `to`, spread as it is; its weights are still to be read."""
        for part in self.pipeline.pieces.values() if self.pipeline else [self]:
            part.to_empty(device=to)
        self.rotary.inverse_frequencies.copy_(RotaryEmbedding(self.config).inverse_frequencies)
        self.forget()

    def blocks(self) -> list[Block]:
        """The layers, in order."""
        return cast("list[Block]", list(self.layers.children()))

    def attentions(self) -> list[Attention]:
        """The layers' attentions, in order."""
        return [layer.self_attn for layer in self.blocks()]

    def routers(self) -> list[Router]:
        """The routers of the layers that have experts, in order."""
        return [module for module in self.modules() if isinstance(module, Router)]
