"""Whether the GPU computes the same: operations, a whole model, 50 steps, each training, resuming, sampling.

Shapes: B sequences, T positions, N tokens, E experts, K experts per token, V vocabulary.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from benchmarks.gpu.findings import Findings
from benchmarks.gpu.models import OPTIMIZER, SMALL, Counting, build
from benchmarks.gpu.trainings import every_training, resuming
from k2core import ops
from k2core.inference.completion import Completion
from k2core.inference.continuous import Row, continuous
from k2core.model.lowered import lowered
from k2core.model.transformer import Transformer
from k2core.model.visibility import WholeRows
from k2core.optim.muonclip import MuonClip
from k2core.training.loss import batch_loss
from k2core.training.parallel import compile_layers

BOUNDS = {torch.float32: 2e-3, torch.bfloat16: 3e-2}
"""Relative errors (2-norm); fp32 leaves room for products in TF32."""

Case = tuple[str, Callable[..., Tensor], list[Tensor]]


def operations(found: Findings) -> None:
    """Each operation and its gradients, against the reference in fp32 on the CPU; memory is full of NaN before."""
    for dtype, bound in BOUNDS.items():
        for name, call, leaves in _cases():
            rounded = [leaf.to(dtype) for leaf in leaves]
            with found.computing("fp32", "cpu"):
                expected = _results(call, [leaf.float() for leaf in rounded])
            with found.computing("fp32"):
                _poison(found)
                got = _results(call, [leaf.to(found.device) for leaf in rounded])
            error = max(_error(ours.cpu(), theirs) for ours, theirs in zip(got, expected, strict=True))
            found.note(f"{name}, {str(dtype).removeprefix('torch.')}", error, "relative error", bound=bound)


def _cases() -> Iterator[Case]:
    def random(*shape: int, seed: int = 0) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))

    B, T, H, n, r, v = 2, 300, 2, 64, 32, 64
    segments_BT = torch.stack([torch.arange(T) // 130, torch.arange(T) // 217])
    angles = random(1, T, r // 2, seed=3)

    def latent(q: Tensor, kv: Tensor, shared: Tensor) -> Tensor:
        rotation = angles.cos().to(q.device), angles.sin().to(q.device)
        reach = WholeRows().reach(T, segments_BT.to(q.device))
        out, largest = ops.latent_attention(q, kv, shared, rotation, reach, 0.1)
        return torch.cat([out.flatten(1), largest], dim=1)

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return ops.attention(q, k, v, WholeRows().reach(T, None))[0]

    yield "latent attention", latent, [random(B, T, H, n + r), random(B, T, H, n + v, seed=1), random(B, T, r, seed=2)]
    yield "attention", plain, [0.1 * random(B, T, H, n), random(B, T, H, n, seed=1), random(B, T, H, v, seed=2)]

    N, D, E, F = 200, 64, 16, 32
    chosen_NK = torch.stack([torch.arange(N) % 3, 5 + torch.arange(N) % 7], dim=1)  # seven experts have no token
    weights_NK = random(N, 2, seed=3).abs()

    def experts(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        return ops.routed_experts(x, chosen_NK.to(x.device), weights_NK.to(x.device), gate_up, down)

    yield "experts", experts, [random(N, D), 0.1 * random(E, 2, F, D, seed=1), 0.1 * random(E, D, F, seed=2)]

    targets_N = torch.randint(500, (N,), generator=torch.Generator().manual_seed(1))
    targets_N[::3] = -100
    yield (
        "head and loss", lambda x, w: ops.head_loss(x, w, targets_N.to(x.device), -100),
        [random(N, D), 0.3 * random(500, D, seed=1)],
    )  # fmt: skip
    yield "norm", lambda x, w: ops.rms_norm(x, w, 1e-6), [random(N, D), random(D, seed=1)]
    yield "swiglu", ops.swiglu, [random(N, 2 * F)]

    def by_flash(q: Tensor, kv: Tensor, shared: Tensor) -> Tensor:
        """bf16 on a GPU goes to the flash kernel, everything else where it would go anyway."""
        with ops.flash_for((n + r, v)):
            return latent(q, kv, shared)

    yield "latent attention, flash", by_flash, [
        random(B, T, H, n + r), random(B, T, H, n + v, seed=1), random(B, T, r, seed=2),
    ]  # fmt: skip


def _results(call: Callable[..., Tensor], leaves: list[Tensor]) -> list[Tensor]:
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    out = call(*leaves)
    gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(9)).to(out.device, out.dtype)
    (out * gradient).sum().backward()
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def _error(ours: Tensor, theirs: Tensor) -> float:
    if not bool(ours.isfinite().all()):
        return float("inf")
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def _poison(found: Findings) -> None:
    """Leave NaN in memory that is handed out next: rows or gradients that nothing writes would show."""
    if found.cuda:
        for size in range(8, 26):
            torch.full((2**size,), torch.nan, device=found.device)


def whole_model(found: Findings) -> None:
    """Logits, loss and gradients of a model in fp32 and bf16, eager and compiled, against fp32 on the CPU.

    Compiled twice: with attention by FlexAttention and by a flash kernel.
    """
    batch = Counting(SMALL.vocab_size, 2, 256).batch(0)

    def run(model: Transformer) -> tuple[Tensor, Tensor, Tensor]:
        here = batch.to(model.device)
        with torch.no_grad():
            logits_BTV = model(here.tokens_BT, here.positions_BT, here.segments_BT)
        loss = batch_loss(model, here)
        loss.backward()
        gradients = torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None])
        return logits_BTV.cpu(), loss.detach().cpu(), gradients.cpu()

    reference, names = build(found, SMALL, on_cpu=True), ("logits", "loss", "gradients")
    with found.computing("fp32", "cpu"):
        expected = run(reference)
    by_flash = {(SMALL.qk_head_dim, SMALL.v_head_dim)}
    for precision, compiled, widths, bounds in (
        ("fp32", False, set(), (2e-3, 1e-3, 1e-2)), ("bf16", False, set(), (0.1, 1e-2, 0.3)),
        ("bf16", True, set(), (0.1, 1e-2, 0.3)), ("bf16", True, by_flash, (0.1, 1e-2, 0.3)),
    ):  # fmt: skip
        if compiled and not found.cuda:
            continue
        with found.computing(precision), ops.flash_for(*widths):
            model = build(found, SMALL)
            model.load_state_dict(reference.state_dict())
            if compiled:
                compile_layers(model)
            for name, ours, theirs, bound in zip(names, run(model), expected, bounds, strict=True):
                label = f"model, {precision}{', compiled' * compiled}{', flash' * bool(widths)}: {name}"
                found.note(label, _error(ours, theirs), "relative error", bound=bound)


def fifty_steps(found: Findings) -> None:
    """50 steps of MuonClip in bf16 lose as much as those in fp32."""
    source, means = Counting(64, 4, 64), {}
    config = SMALL.model_copy(update={"vocab_size": 64, "num_hidden_layers": 2})
    for precision in ("fp32", "bf16"):
        with found.computing(precision):
            model = build(found, config, on_cpu=True).to(found.device)
            optimizer = MuonClip(model, OPTIMIZER)
            losses = []
            for step in range(50):
                optimizer.zero_grad()
                loss = batch_loss(model, source.batch(step).to(found.device))
                loss.backward()
                optimizer.step(0.1)
                losses.append(float(loss.detach()))
            means[precision] = sum(losses) / 50
    gap = abs(means["bf16"] / means["fp32"] - 1)
    note = f"mean losses {means['fp32']:.4f} in fp32, {means['bf16']:.4f} in bf16; the last {losses[-1]:.4f}"
    found.note("50 steps, bf16 against fp32", gap, "relative", bound=0.02, note=note)


def sampling(found: Findings) -> None:
    """The compiled and captured step against the same step as it is: the same seeds give the same tokens."""
    random, stop = Random(0), {3, 4, 5}
    prompts = [tuple(random.randrange(SMALL.vocab_size) for _ in range(random.randrange(1, 40))) for _ in range(24)]

    def said(captured: bool) -> list[list[int]]:
        rows = [Row(p, Completion([], [], "length"), Random(n), None) for n, p in enumerate(prompts)]
        continuous(lowered(model), rows, 24, 0.8, stop, 8, captured)
        return [row.completion.tokens for row in rows]

    with found.computing("bf16"):
        model = build(found, SMALL)
        pairs = list(zip(said(False), said(True), strict=True))
    differing = sum(one[:4] != other[:4] for one, other in pairs) / len(pairs)
    note = "first 4 tokens; compiled code rounds less often, so that a number near a border may fall beyond it"
    found.note("sampling in a graph against without", differing, "of the rows differ", bound=0.2, note=note)


def exported(found: Findings) -> None:
    """transformers loads an export and gives the same logits."""
    if not find_spec("transformers"):
        found.note("export", "left out", note="no transformers here")
        return
    from benchmarks.peers import twin

    model = build(found, SMALL)
    tokens_BT = Counting(SMALL.vocab_size, 2, 64).batch(0).tokens_BT.to(found.device)
    with found.computing("fp32"), torch.no_grad():
        theirs = twin(model).to(found.device)(tokens_BT).logits
        found.note("export: logits in transformers", _error(model(tokens_BT), theirs), "relative error", bound=1e-3)


def trainings(found: Findings) -> None:
    """Every stage that trains or measures, for a few steps in bf16, and resuming."""
    with tempfile.TemporaryDirectory() as folder:
        every_training(found, Path(folder))
        resuming(found, Path(folder))


PARTS = (operations, whole_model, fifty_steps, trainings, sampling, exported)
