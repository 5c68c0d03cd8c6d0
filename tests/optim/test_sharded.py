"""MuonClip over 2 and 4 gloo processes gives what one process with the whole batch gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from processes import CONFIG, SHAPE, run
from torch.distributed.checkpoint import load as load_checkpoint
from torch.distributed.checkpoint import save as save_checkpoint
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

from k2core.machine import device
from k2core.model.loss import cross_entropy
from k2core.model.sharded import whole
from k2core.model.transformer import Transformer
from k2core.optim.muon import Muon
from k2core.optim.muonclip import MuonClip
from k2core.optim.sharding import local
from k2core.training.parallel import shard, shard_experts

STEPS, MICRO_BATCHES, SEQUENCES = 3, 2, 4
TOKENS = torch.randint(0, 64, (STEPS, MICRO_BATCHES, SEQUENCES, 25), generator=torch.Generator().manual_seed(3))


def build(experts: int = 8, idle: bool = False) -> Transformer:
    """The model; with `idle` no token chooses the second half of the experts."""
    torch.manual_seed(0)
    model = Transformer(SHAPE.model_copy(update={"n_routed_experts": experts}))
    for router in model.routers():
        router.e_score_correction_bias[experts // 2 :] -= 10 * idle
    return model


def train(model: Transformer, optimizer: MuonClip, rank: int = 0, processes: int = 1) -> list[dict[str, float]]:
    """`STEPS` steps on this rank's sequences of every micro-batch; the metrics."""
    metrics = []
    for micro_batches in TOKENS:
        optimizer.zero_grad()
        for tokens_BT in micro_batches.chunk(processes, dim=1)[rank]:
            (cross_entropy(model(tokens_BT[:, :-1]), tokens_BT[:, 1:]) / MICRO_BATCHES).backward()
        metrics.append(optimizer.step(0.5))
    return metrics


def everything(model: Transformer, optimizer: MuonClip) -> dict[str, torch.Tensor]:
    """Weights, biases and optimiser state, gathered."""
    return {name: whole(t).clone() for name, t in {**model.state_dict(), **optimizer.state_dict()}.items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert float((tensor - other[name]).abs().max()) <= 1e-5 * float(tensor.abs().max()), name


def train_sharded(
    rank: int, processes: int, mesh_shape: tuple[int, ...], experts: int, idle: bool, parallel: bool
) -> Any:
    names = ("copies", "shards")[-len(mesh_shape) :]
    model, mesh = build(experts, idle), init_device_mesh("cpu", mesh_shape, mesh_dim_names=names)
    if parallel:
        shard_experts(model, mesh)
    shard(model, mesh)
    optimizer = MuonClip(model, CONFIG)
    metrics = train(model, optimizer, rank, processes)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    split = mesh_shape[-1]
    gate_up = model.get_parameter("layers.0.mlp.gate_up_proj")  # [2, 48, 32]: equal pieces, beyond two processes too
    assert local(gate_up).shape == ((1, 48, 32) if split == 2 else (2, 48 // split, 32))
    assert local(optimizer.state_dict()["muon/layers.0.self_attn.q_b_proj.weight"]).numel() == 36 * 16 // split
    return metrics, everything(model, optimizer)


@pytest.mark.parametrize(
    ("mesh_shape", "experts", "idle", "parallel"),
    [
        ((2,), 8, False, False), ((4,), 6, False, False), ((2, 2), 8, False, False),
        ((2,), 8, False, True), ((4,), 8, False, True), ((4,), 8, True, True),
    ],
    ids=["fsdp-2", "fsdp-4-uneven", "hybrid-2x2", "experts-2", "experts-4", "experts-4-idle"],
)  # fmt: skip
def test_processes_give_the_result_of_one(mesh_shape, experts, idle, parallel, tmp_path):
    model = build(experts, idle)
    optimizer = MuonClip(model, CONFIG)
    expected, alone = train(model, optimizer), everything(model, optimizer)
    assert all(row["qk_clip/heads_clipped"] > 0 for row in expected)
    assert alone["layers.1.mlp.gate.e_score_correction_bias"].unique().numel() > 1
    results = run(torch.Size(mesh_shape).numel(), train_sharded, tmp_path, mesh_shape, experts, idle, parallel)
    for metrics, state in results:
        assert_same(alone, state)
        for row, other in zip(expected, metrics, strict=True):
            assert other == pytest.approx(row, rel=1e-5)
        for name, tensor in results[0][1].items():
            assert torch.equal(tensor, state[name]), name


def train_in_bf16(rank: int, processes: int) -> Any:
    """Also the types of the weights that the first layer multiplies with, and of what lies between steps."""
    device.precision = "bf16"
    model, seen = build(), set[torch.dtype]()
    if processes > 1:
        shard(model, init_device_mesh("cpu", (processes,)))
    model.layers[0].self_attn.register_forward_pre_hook(
        lambda module, _: seen.update(parameter.dtype for parameter in module.parameters())
    )
    rotated: set[torch.dtype] = set()
    model.layers[0].register_forward_pre_hook(lambda _, inputs: rotated.update(part.dtype for part in inputs[1]))
    optimizer = MuonClip(model, CONFIG)
    metrics = train(model, optimizer, rank, processes)
    kept = {tensor.dtype for p in model.parameters() for tensor in (p, p.grad)}
    return metrics, everything(model, optimizer), seen, kept, rotated


def test_weights_are_exchanged_in_bf16_and_kept_in_fp32(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "precision", "bf16")
    expected, alone, seen, *_ = train_in_bf16(0, 1)
    assert seen == {torch.float32}
    for metrics, state, gathered, kept, rotated in run(2, train_in_bf16, tmp_path):
        assert gathered == {torch.bfloat16} and kept == rotated == {torch.float32}
        for row, other in zip(expected, metrics, strict=True):
            assert other["qk_clip/max_logit"] == pytest.approx(row["qk_clip/max_logit"], rel=0.03)
        for name, tensor in alone.items():
            if not name.startswith(("muon/", "adamw/")) and "bias" not in name:  # a bias moves by a choice
                assert float((tensor - state[name]).norm()) <= 0.05 * float(tensor.norm()), name


def maxima(model: Transformer) -> torch.Tensor:
    return torch.stack([attention.max_logit_H for attention in model.attentions()])


def clip_by_one(rank: int, processes: int, threshold: float) -> Any:
    """One step; only rank 1 has sequences with logits above `threshold`."""
    model = build()
    shard(model, init_device_mesh("cpu", (processes,)))
    optimizer = MuonClip(model, CONFIG.model_copy(update={"qk_clip_threshold": threshold}))
    tokens_BT = sequences_with_a_larger_second_half().chunk(2)[rank]
    cross_entropy(model(tokens_BT[:, :-1]), tokens_BT[:, 1:]).backward()
    seen = float(maxima(model).max())
    return seen, optimizer.step(1.0), everything(model, optimizer)


def sequences_with_a_larger_second_half() -> torch.Tensor:
    halves = TOKENS[0, 0].chunk(2)
    largest = []
    for half in halves:
        model = build()
        model(half[:, :-1])
        largest.append(float(maxima(model).max()))
    return torch.cat(halves if largest[1] > largest[0] else halves[::-1])


def test_the_largest_logit_of_any_rank_clips(tmp_path):
    tokens_BT = sequences_with_a_larger_second_half()
    model = build()
    cross_entropy(model(tokens_BT[:, :-1]), tokens_BT[:, 1:]).backward()
    low, high = build(), float(maxima(model).max())
    low(tokens_BT[:2, :-1])
    threshold = (float(maxima(low).max()) + high) / 2
    optimizer = MuonClip(model, CONFIG.model_copy(update={"qk_clip_threshold": threshold}))
    expected = optimizer.step(1.0)
    (first, *_), (second, *_) = results = run(2, clip_by_one, tmp_path, threshold)
    assert first < threshold < second == pytest.approx(high)
    for _, metrics, state in results:
        assert metrics == pytest.approx(expected, rel=1e-5)
        assert metrics["qk_clip/heads_clipped"] == 1 and metrics["qk_clip/min_gamma"] < 1
        assert_same(everything(model, optimizer), state)


def faults_and_files(rank: int, processes: int, folder: Path) -> None:
    mesh = init_device_mesh("cpu", (processes,))
    model = build()
    shard(model, mesh)
    optimizer = MuonClip(model, CONFIG)
    train(model, optimizer, rank, processes)
    weights, state = {n: t.clone() for n, t in model.state_dict().items()}, optimizer.state_dict()
    before = everything(model, optimizer)

    name = "layers.1.mlp.experts.down_proj"
    if rank == 1:  # the others must notice
        local(model.get_parameter(name).grad)[0, 0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match=rf"1 of \d+ parameters, first {name}"):
        optimizer.step(1.0)
    assert all(torch.equal(t, before[n]) for n, t in everything(model, optimizer).items())

    save_checkpoint({"optimizer": state}, checkpoint_id=folder / "checkpoint", no_dist=False)
    train(model, optimizer, rank, processes)
    after = everything(model, optimizer)
    again = build()
    shard(again, mesh)
    resumed = MuonClip(again, CONFIG)
    read = resumed.state_dict()
    load_checkpoint({"optimizer": read}, checkpoint_id=folder / "checkpoint", no_dist=False)
    again.load_state_dict(weights)
    resumed.load_state_dict(read)
    train(again, resumed, rank, processes)
    assert all(torch.equal(t, after[n]) for n, t in everything(again, resumed).items())

    columns = torch.nn.Parameter(distribute_tensor(torch.zeros(4, 4), mesh, [Shard(1)]))
    with pytest.raises(ValueError, match="the last axis cannot be split"):
        Muon([("w", columns)], momentum=0.9, weight_decay=0.0)
    with pytest.raises(ValueError, match="5 routed experts cannot be shared out equally"):
        shard_experts(build(experts=5), mesh)


def test_one_ranks_fault_is_everyones_and_state_survives_a_checkpoint(tmp_path):
    run(2, faults_and_files, tmp_path, tmp_path)
