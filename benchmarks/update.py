"""The optimiser's update against `torch.optim.Muon`, and against its matrix products alone.

Shapes: B sequences, T positions, H heads, E experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmarks.harness import Entry, Work, alternate, compare, milliseconds
from benchmarks.scale import Scale, build
from benchmarks.training_step import LR_SCALE
from k2core.model.loss import cross_entropy
from k2core.model.transformer import Transformer
from k2core.optim.kinds.muonclip import MuonClipConfig
from k2core.optim.muon import STEPS, Muon
from k2core.optim.muonclip import ADAMW_MATRICES, MuonClip

TOPIC = "update"


def run(scale: Scale) -> list[Entry]:
    """Three entries for each of the first two models."""
    entries = []
    for size, config in list(scale.models.items())[:2]:
        model = build(config)
        muon = our_muon(matrices(model), scale.optimizer)
        slow = {"muon": muon, "torch": torch_muon(matrices(model), scale.optimizer)}
        pairs = _milliseconds(slow, scale.few_rounds, 0)
        works = {
            "muon": muon,
            "products": products(matrices(model)),
            "muonclip": muonclip_update(model, scale.optimizer, *scale.batch(config)),
        }
        times = _milliseconds(works, scale.rounds, scale.seconds)
        entries += [
            compare(
                f"Muon update, {size}", pairs["muon"], pairs["torch"], unit="ms", ratio_of="peer / ours",
                better="higher", goal=10.0, topic=TOPIC, note="torch.optim.Muon on the same 2-D matrices",
            ),
            compare(
                f"Muon update over its products, {size}", times["muon"], times["products"], unit="ms",
                ratio_of="ours / peer", better="lower", goal=1.5, topic=TOPIC,
                note="batched Newton-Schulz matrix products alone",
            ),
            compare(
                f"MuonClip update over its products, {size}", times["muonclip"], times["products"], unit="ms",
                ratio_of="ours / peer", better="lower", goal=1.5, topic=TOPIC,
                note="everything in MuonClip.step, AdamW's part too, over the same products",
            ),
        ]  # fmt: skip
    return entries


def _milliseconds(works: dict[str, Work], rounds: int, seconds: float) -> dict[str, list[float]]:
    return {name: milliseconds(times) for name, times in alternate(works, rounds=rounds, seconds=seconds).items()}


def matrices(model: Transformer) -> list[nn.Parameter]:
    """Copies of the matrices that are Muon's, each expert's for itself, with random gradients."""
    generator = torch.Generator().manual_seed(2)
    result = []
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and name not in ADAMW_MATRICES:
            for matrix in parameter.detach().reshape(-1, *parameter.shape[-2:]):
                copy = nn.Parameter(matrix.clone())
                copy.grad = 1e-3 * torch.randn(copy.shape, generator=generator)
                result.append(copy)
    return result


def our_muon(parameters: list[nn.Parameter], config: MuonClipConfig) -> Work:
    """`k2core.optim.muon.Muon` over `parameters`."""
    named = [(str(number), parameter) for number, parameter in enumerate(parameters)]
    muon = Muon(named, config.momentum, config.weight_decay)
    return lambda: muon.step(config.muon_lr * LR_SCALE, 1.0)


def torch_muon(parameters: list[nn.Parameter], config: MuonClipConfig) -> Work:
    """`torch.optim.Muon` over `parameters`, at the same settings."""
    muon = torch.optim.Muon(
        parameters, lr=config.muon_lr * LR_SCALE, weight_decay=config.weight_decay, momentum=config.momentum,
        nesterov=True, adjust_lr_fn="match_rms_adamw",
    )  # fmt: skip
    return muon.step


def products(parameters: list[nn.Parameter]) -> Work:
    """The matrix products of Newton-Schulz over `parameters`, batched over equal shapes, into memory that is there."""
    batches: dict[tuple[int, ...], int] = {}
    for parameter in parameters:
        shape = tuple(sorted(parameter.shape))
        batches[shape] = batches.get(shape, 0) + 1
    buffers = [
        (torch.randn(B, M, N), torch.empty(B, M, M), torch.empty(B, M, M), torch.empty(B, M, N))
        for (M, N), B in batches.items()
    ]

    def work() -> None:
        for x, gram, square, out in buffers:
            for _ in range(STEPS):
                torch.bmm(x, x.mT, out=gram)
                torch.bmm(gram, gram, out=square)
                torch.bmm(square, x, out=out)

    return work


def muonclip_update(model: Transformer, config: MuonClipConfig, tokens_BT: Tensor, targets_BT: Tensor) -> Work:
    """`MuonClip.step` on one batch's gradients, maxima and expert counts, again and again."""
    optimizer = MuonClip(model, config)
    optimizer.zero_grad()
    cross_entropy(model(tokens_BT), targets_BT).backward()
    # below the clipping norm: step() clips AdamW's gradients in place, and repeated that would end in denormals
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    for parameter in model.parameters():
        parameter.grad.mul_(0.5 * config.max_grad_norm / norm)
    maxima = [(attention, attention.max_logit_H.clone()) for attention in model.attentions()]
    counts = [(router, router.tokens_per_expert_E.clone()) for router in model.routers()]

    def work() -> None:
        for attention, max_logit_H in maxima:
            attention.max_logit_H.copy_(max_logit_H)
        for router, tokens_per_expert_E in counts:
            router.tokens_per_expert_E.copy_(tokens_per_expert_E)
        optimizer.step(LR_SCALE)

    return work
