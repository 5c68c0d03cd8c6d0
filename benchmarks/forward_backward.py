"""Forward and backward against `transformers`, and as a share of the machine's peak."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Entry, Work, alternate, compare, milliseconds
from benchmarks.peers import our_pass, peer_pass, twin, use_fastest
from benchmarks.scale import Scale, build
from k2core.model.counts import total_parameters
from k2core.ops import using

TOPIC = "forward_backward"


def run(scale: Scale) -> list[Entry]:
    """Two entries per model."""
    entries = []
    for size, config in scale.models.items():
        model = build(config)
        peer = twin(model)
        tokens, targets = scale.batch(config)
        works = {"ours": our_pass(model, tokens, targets), "peer": peer_pass(peer, tokens, targets)}
        fastest = use_fastest(peer, works["peer"], tokens=tokens.numel(), training=True)
        a, b, out = (torch.randn(scale.peak, scale.peak) for _ in range(3))
        works["peak"] = lambda a=a, b=b, out=out: torch.mm(a, b, out=out)
        times = alternate(works, rounds=scale.rounds, seconds=scale.seconds)
        millions = total_parameters(model) / 1e6
        entries += [
            compare(
                f"forward + backward, {size}",
                milliseconds(times["ours"]),
                milliseconds(times["peer"]),
                unit="ms", ratio_of="peer / ours", better="higher", goal=1.3, topic=TOPIC,
                note=f"{millions:.2f}M parameters; transformers: {fastest}",
            ),
            compare(
                f"share of the fp32 peak, {size}",
                _rates(flops(works["ours"]), times["ours"]),
                _rates(2 * scale.peak**3, times["peak"]),
                unit="GFLOP/s", ratio_of="ours / peer", better="higher", goal=0.85, topic=TOPIC,
                note=f"forward + backward, against torch.mm of {scale.peak}×{scale.peak}",
            ),
        ]  # fmt: skip
    return entries


def flops(work: Work) -> int:
    """Floating-point operations of the matrix products in `work`, a multiply-add as two.

    Those of the plain torch operations: what the kernels compute again in the backward pass does not count.
    """
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten._grouped_mm: _grouped_mm_flops})
    with using("reference"), counter:
        work()
    return counter.get_total_flops()


def _grouped_mm_flops(a: torch.Size, b: torch.Size, *_: Any, **__: Any) -> int:
    """Of [M, K] · [E, K, N] with M cut into E groups (forward), and of the gradient [K, M] · [M, N] cut likewise."""
    return 2 * a[-2] * a[-1] * b[-1]


def _rates(operations: int, times: list[float]) -> list[float]:
    return [operations / second / 1e9 for second in times]
