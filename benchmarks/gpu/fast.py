"""How fast the GPU is: passes, optimiser, the whole loop, checkpoints, decoding, against transformers and torch.

Shapes: B sequences, T positions, V vocabulary.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu.findings import Findings
from benchmarks.gpu.models import K2_WIDTHS, OPTIMIZER, TINY, Counting, G, build, random_rows
from benchmarks.gpu.trainings import CHECKPOINT, SPIKES, Quiet, Steps
from k2core import ops
from k2core.formats.huggingface import huggingface_config
from k2core.inference.continuous import WINDOW
from k2core.inference.continuous import Steps as Decoding
from k2core.inference.sampler import generate
from k2core.machine.compiler import compiled
from k2core.model.config import ModelConfig
from k2core.model.counts import training_flops
from k2core.model.lowered import lowered
from k2core.model.transformer import Transformer
from k2core.optim.muonclip import ADAMW_MATRICES, MuonClip
from k2core.training.checkpoint import Checkpoints
from k2core.training.learner import Learner
from k2core.training.parallel import compile_layers
from k2core.training.setting import Setting
from k2core.training.trainer import Plan, train

RATE = 1e-3
"""Of the optimiser: so small that the routing stays as it is."""


def at_g(found: Findings) -> None:
    """Passes, optimiser, loop and checkpoint at gpu.md's model G; then torch's Muon, and transformers."""
    config, rows, context = (TINY, 2, 64) if found.small else (G, 4, 4096)
    with found.computing("bf16"):
        update = _ours(found, config, rows, context)
        found.free()
        _torch_muon(found, config, update)
        found.free()
        if find_spec("transformers"):
            _peer_passes(found, config, rows, context)
        else:
            found.note("transformers", "left out", note="not installed here")


def _ours(found: Findings, config: ModelConfig, rows: int, context: int) -> float:
    """Returns the seconds of an update."""
    model = _model(found, config)
    step = _passes(found, "G", model, rows, context, floor=0.28)
    optimizer = MuonClip(model, OPTIMIZER)
    update = found.seconds(lambda: optimizer.step(RATE), 3)
    found.note("MuonClip step, G", 1e3 * update, "ms", note=f"{found.gib():.0f} GiB with the passes")
    _loop(found, Learner(model, optimizer), rows, context, step, update)
    return update


def at_k2_widths(found: Findings) -> None:
    """Passes at K2's own widths, in three layers."""
    config, rows, context = (TINY, 1, 64) if found.small else (K2_WIDTHS, 2, 4096)
    with found.computing("bf16"):
        _passes(found, "K2's widths", _model(found, config), rows, context, floor=0.46)


def k2_widths_by_flex(found: Findings) -> None:
    """The same with FlexAttention, whatever `flash.WIDTHS` says: which of the two is faster decides what it should."""
    if found.cuda and not found.small and found.left > 90:
        with found.computing("bf16"), ops.flash_for():
            _passes(found, "K2's widths by FlexAttention", _model(found, K2_WIDTHS), 2, 4096, floor=0.46)


def _model(found: Findings, config: ModelConfig) -> Transformer:
    model = build(found, config)
    if found.cuda:
        compile_layers(model)
    return model


def _passes(found: Findings, name: str, model: Transformer, rows: int, context: int, floor: float) -> float:
    """Forward and backward; returns the seconds of one."""
    tokens_BT, targets_BT = random_rows(found, model.config, rows, context)
    model.logits_above = OPTIMIZER.qk_clip_threshold  # as in steps that are not logged

    def work() -> None:
        model.zero_grad(set_to_none=True)
        (model(tokens_BT, targets_BT=targets_BT) / targets_BT.numel()).backward()

    seconds = found.seconds(work, 8)
    rate = rows * context / seconds
    found.note(
        f"forward + backward, {name}", rate, "tokens per second", note=f"{rows}×{context}, {found.gib():.0f} GiB"
    )
    if found.peak:
        share = rate * training_flops(model.config, context) / found.peak
        found.note(f"share of the peak, {name}", share, floor=floor)
    return seconds


def _loop(found: Findings, learner: Learner, rows: int, context: int, step: float, update: float) -> None:
    """`train` with eight micro-batches per step, over eight passes and an update; and its checkpoint."""
    micro_batches, stalls = (2 if found.small else 8), []
    source = Counting(learner.model.config.vocab_size, micro_batches * rows, context)
    save = Checkpoints.save

    def timed(*words: Any) -> None:
        begun = time.perf_counter()
        save(*words)
        stalls.append(time.perf_counter() - begun)

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(Checkpoints, "save", timed):
        job = Quiet(Path(folder) / "loop")
        plan = Plan(source, Steps(steps=6, log_every=2, checkpoint_every=1000))
        setting = Setting(job, SPIKES, CHECKPOINT, micro_batch_tokens=rows * context)
        begun = time.perf_counter()
        train(learner, plan, setting, Path(folder) / "plot.csv")
        whole = time.perf_counter() - begun
    rates = [metrics["throughput/tps"] for metrics in job.seen[1:]]
    parts = micro_batches * rows * context / (micro_batches * step + update)
    note = f"{sum(rates) / len(rates):,.0f} of {parts:,.0f} tokens per second"
    ratio = sum(rates) / len(rates) / parts
    found.note("training loop over its parts, G", ratio, floor=0.95, note=note)
    stall = max(stalls)
    met = stall <= 1 if found.floored else None
    note = f"≤ 1; 6 steps with the writing: {whole:.0f} s"
    found.note("checkpoint: training waits", stall, "s", met=met, note=note)


def _torch_muon(found: Findings, config: ModelConfig, ours: float) -> None:
    """`torch.optim.Muon`, which takes each matrix by itself."""
    matrices = [
        nn.Parameter(matrix.clone())
        for name, parameter in build(found, config).named_parameters()
        if parameter.ndim > 1 and name not in ADAMW_MATRICES
        for matrix in parameter.detach().reshape(-1, *parameter.shape[-2:])
    ]
    for matrix in matrices:
        matrix.grad = matrix.detach() * RATE
    theirs = found.seconds(torch.optim.Muon(matrices, lr=RATE).step, 2)
    found.note("torch.optim.Muon over MuonClip", theirs / ours, "times", floor=10.0, note=f"{1e3 * theirs:.0f} ms")


def _peer(found: Findings, config: ModelConfig) -> Any:
    """transformers' model of this shape, in bf16, by its fastest means: it need not repeat."""
    torch.set_deterministic_debug_mode("default")
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    described = huggingface_config(config, eos_token_ids=[0], dtype="bfloat16")
    with found.device:
        peer = AutoModelForCausalLM.from_config(
            AutoConfig.for_model(described.pop("model_type"), **described), dtype=torch.bfloat16,
            attn_implementation="sdpa",
        )  # fmt: skip
    peer.set_experts_implementation("grouped_mm")
    peer.generation_config.eos_token_id = None
    return peer


def _peer_passes(found: Findings, config: ModelConfig, rows: int, context: int) -> None:
    peer = _peer(found, config)
    tokens_BT, targets_BT = random_rows(found, config, rows, context)
    ours = found.value("forward + backward, G") or 0.0

    def timed(call: Callable[..., Any]) -> float:
        def work() -> None:
            peer.zero_grad(set_to_none=True)
            logits_BTV: Tensor = call(tokens_BT, use_cache=False).logits
            F.cross_entropy(logits_BTV.flatten(0, 1).float(), targets_BT.flatten()).backward()

        return rows * context / found.seconds(work)

    rates = {"eager": timed(peer)}
    if found.cuda and found.left > 150:
        rates["compiled"] = timed(torch.compile(peer))
    for kind, rate in rates.items():
        floor = 1.4 if kind == "compiled" else None
        found.note(
            f"ours over transformers, {kind}, G",
            ours / rate,
            "times",
            floor=floor,
            note=f"{rate:,.0f} tokens per second",
        )


def decoding(found: Findings) -> None:
    """Steps of many rows, whole calls of the sampler, and transformers' generate."""
    config, new, batches = (TINY, 8, (4,)) if found.small else (G, 64, (64, 256))
    prompts_BT = random_rows(found, config, batches[0], new)[0]
    with found.computing("bf16"):
        rate = _our_decoding(found, config, prompts_BT, batches)
        found.free()
        if find_spec("transformers") and found.left > 20:
            theirs = _generate(found, config, prompts_BT)
            note = f"batch {batches[0]}, theirs {theirs:,.0f} tokens per second"
            found.note("decoding over transformers' generate", rate / theirs, "times", floor=11.0, note=note)


@torch.inference_mode()
def _our_decoding(found: Findings, config: ModelConfig, prompts_BT: Tensor, batches: tuple[int, ...]) -> float:
    """Returns the tokens per second of the steps of the first batch."""
    model, rates = build(found, config), []
    for batch in batches:
        steps = Decoding(lowered(model), batch, config.max_position_embeddings // 8, 0.0, captured=True)
        seconds = found.seconds(partial(steps.run, [[1.0] * batch] * WINDOW), 6)
        rates.append(batch * WINDOW / seconds)
        floor = 50_000.0 if batch == 256 else None
        found.note(f"decoding, batch {batch}", rates[-1], "tokens per second", floor=floor)
        del steps
    rows, new = prompts_BT.shape
    seconds = found.seconds(
        lambda: generate(
            model, prompts_BT.tolist(), max_new_tokens=new, temperature=1.0, stop_ids=set(), seed=1, batch_size=rows
        ), 1,
    )  # fmt: skip
    found.note(
        f"a call of the sampler, batch {rows}", rows * new / seconds, "tokens per second", note=f"{new} tokens each"
    )
    return rates[0]


@torch.inference_mode()
def _generate(found: Findings, config: ModelConfig, prompts_BT: Tensor) -> float:
    """Tokens per second of transformers, as many new ones as the prompts have."""
    peer = _peer(found, config).eval()
    seconds = found.seconds(
        lambda: peer.generate(
            prompts_BT, attention_mask=torch.ones_like(prompts_BT), max_new_tokens=prompts_BT.shape[1],
            do_sample=False, pad_token_id=0,
        ), 1,
    )  # fmt: skip
    return prompts_BT.numel() / seconds


def attention_options(found: Findings) -> None:
    """Which of FlexAttention's options are fastest at the widths of G and of K2, for `k2core/ops/cuda/attention.py`.

    And a flash kernel there, for `flash.WIDTHS`: where no head needs its largest logit, and where all do.
    """
    if not found.cuda or found.small:
        return
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    from k2core.model.visibility import WholeRows

    attend = compiled(flex_attention)
    mask = create_block_mask(lambda b, h, t, s: t >= s, None, None, 4096, 4096, device=found.device)
    candidates: list[dict[str, int]] = [
        {}, *(
            {"fwd_BLOCK_M": 128, "fwd_BLOCK_N": 64, "fwd_num_warps": 8, "fwd_num_stages": 3, "bwd_BLOCK_M1": a,
             "bwd_BLOCK_N1": b, "bwd_BLOCK_M2": b, "bwd_BLOCK_N2": a, "bwd_num_warps": w, "bwd_num_stages": s}
            for a, b, w, s in ((32, 64, 4, 3), (64, 64, 4, 2), (64, 64, 4, 3), (64, 128, 8, 2), (64, 128, 8, 3))
        ),
    ]  # fmt: skip
    for heads, d, v in ((16, 96, 64), (64, 192, 128)):
        q, k, values = (
            torch.randn(2, heads, 4096, width, device=found.device, dtype=torch.bfloat16, requires_grad=True)
            for width in (d, d, v)
        )
        times: dict[str, float] = {}
        for options in candidates if found.left > 40 else []:
            try:
                times[str(options)] = found.seconds(partial(_attended, attend, q, k, values, mask, options), 5)
            except RuntimeError as error:  # more shared memory than a block may have
                print(f"       {options}: {str(error).splitlines()[0][:100]}", flush=True)
        if times:
            best = min(times, key=lambda name: times[name])
            note = f"{best}; torch's own {1e3 * times['{}']:.2f} ms"
            found.note(f"attention {d}/{v}, the fastest options", 1e3 * times[best], "ms", note=note)
        for name, above in (("no largest logit needed", math.inf), ("all needed", -math.inf)):
            reach = WholeRows().reach(4096, None)
            reach.above = above
            with found.computing("bf16"), ops.flash_for((d, v)):
                seconds = found.seconds(partial(_attended_by_flash, q, k, values, reach), 5)
            found.note(f"attention {d}/{v}, flash, {name}", 1e3 * seconds, "ms")


def _attended(attend: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, options: dict[str, int]) -> None:
    from torch.nn.attention.flex_attention import AuxRequest

    aux = AuxRequest(max_scores=True)
    out, _ = attend(q, k, v, block_mask=mask, return_aux=aux, kernel_options=options or None)
    out.backward(torch.ones_like(out))


def _attended_by_flash(q: Tensor, k: Tensor, v: Tensor, reach: ops.Reach) -> None:
    out, _ = ops.attention(*(x.transpose(1, 2) for x in (0.1 * q, k, v)), reach)
    out.backward(torch.ones_like(out))


PARTS = (at_g, at_k2_widths, decoding, k2_widths_by_flex, attention_options)
