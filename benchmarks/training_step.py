"""A whole training step with MuonClip against the same step with fused AdamW.

Shapes: B sequences, T positions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.harness import Entry, Work, alternate, compare, milliseconds
from benchmarks.scale import Scale, build
from k2core.model.loss import cross_entropy
from k2core.model.transformer import Transformer
from k2core.optim.kinds.muonclip import MuonClipConfig
from k2core.optim.muonclip import MuonClip

TOPIC = "training_step"
LR_SCALE = 1e-3
"""So small that both sides stay at about the same weights and the same routing, however many steps are timed."""


def run(scale: Scale) -> list[Entry]:
    """One entry."""
    size, config = next(iter(scale.models.items()))
    batch = scale.batch(config)
    works = {
        "ours": muonclip_step(build(config), scale.optimizer, *batch),
        "peer": adamw_step(build(config), scale.optimizer, *batch),
    }
    times = alternate(works, rounds=scale.rounds, seconds=scale.seconds)
    return [
        compare(
            f"training step, MuonClip against AdamW, {size}", milliseconds(times["ours"]), milliseconds(times["peer"]),
            unit="ms", ratio_of="ours / peer", better="lower", goal=1.15, topic=TOPIC,
            note=f"torch.optim.AdamW(fused=True) with clipped gradient norm; batch {scale.rows}×{scale.context}",
        )
    ]  # fmt: skip


def muonclip_step(
    model: Transformer, config: MuonClipConfig, tokens_BT: Tensor, targets_BT: Tensor
) -> Callable[[], dict[str, float]]:
    """Forward, backward, MuonClip."""
    optimizer = MuonClip(model, config)

    def work() -> dict[str, float]:
        optimizer.zero_grad()
        cross_entropy(model(tokens_BT), targets_BT).backward()
        return optimizer.step(LR_SCALE)

    return work


def adamw_step(model: Transformer, config: MuonClipConfig, tokens_BT: Tensor, targets_BT: Tensor) -> Work:
    """Forward, backward, gradient clipping, fused AdamW at MuonClip's settings of it."""
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=config.adamw_lr * LR_SCALE, betas=(config.adamw_beta1, config.adamw_beta2), eps=config.adamw_eps, fused=True,
    )  # fmt: skip

    def work() -> None:
        optimizer.zero_grad()
        cross_entropy(model(tokens_BT), targets_BT).backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()

    return work
