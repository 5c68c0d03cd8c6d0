"""Processes that share rows give the loss, gradients, largest logits and weights of one process with whole rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from processes import CONFIG, SHAPE, run
from torch.distributed.device_mesh import init_device_mesh
from torch.utils.flop_counter import FlopCounterMode

from k2core.data.rows.batch import IGNORE, Batch
from k2core.model.sharded import whole
from k2core.model.transformer import Transformer
from k2core.ops import reference
from k2core.ops.cpu import operations as cpu
from k2core.optim.muonclip import MuonClip
from k2core.training.context_parallel import SharedRows, shard_context, split_context, whole_rows
from k2core.training.parallel import recompute_activations, shard, shard_experts

STEPS, T = 3, 32
SEGMENTS = ((32,), (11, 9, 12), (1, 20, 11), (3, 4, 9, 7, 9))
"""Documents of each row; the last one of every row but the first is padding."""


def build(attention: str = "mla") -> Transformer:
    torch.manual_seed(0)
    changes = {"attention": attention} | ({} if attention == "mla" else {"q_lora_rank": None, "kv_lora_rank": None})
    return Transformer(SHAPE.model_copy(update=changes))


def packed(step: int) -> Batch:
    """A packed batch in which columns 12 to 20, all that process 3 of 4 has, are without targets."""
    generator = torch.Generator().manual_seed(step)
    tokens_BT = torch.randint(0, 64, (4, T), generator=generator)
    targets_BT = torch.randint(0, 64, (4, T), generator=generator)
    targets_BT[:, 12:20] = IGNORE
    for targets_T, lengths in zip(targets_BT[1:], SEGMENTS[1:], strict=True):
        targets_T[-lengths[-1] :] = IGNORE
    positions_BT = torch.stack([torch.cat([torch.arange(n) for n in lengths]) for lengths in SEGMENTS])
    segments = [torch.arange(len(n)).repeat_interleave(torch.tensor(n)) for n in SEGMENTS]
    return Batch(tokens_BT, targets_BT, positions_BT, torch.stack(segments))


def part_of(batch: Batch, part: int, parts: int) -> Batch:
    """The rows of one data rank."""
    fields = (batch.tokens_BT, batch.targets_BT, batch.positions_BT, batch.segments_BT)
    return Batch(*(field.chunk(parts)[part] for field in fields))


def loss_of(model: Transformer, batch: Batch) -> torch.Tensor:
    """Sum over the targets, which may be none."""
    wanted_BT = batch.targets_BT != IGNORE
    logits_MV = model(batch.tokens_BT, batch.positions_BT, batch.segments_BT, wanted_BT)
    return F.cross_entropy(logits_MV, batch.targets_BT[wanted_BT], reduction="sum")


def train(model: Transformer, data: int = 0, datas: int = 1, context: int = 0, contexts: int = 1) -> dict[str, Any]:
    """Three steps; losses, first gradients and largest logits, weights and optimiser state, all of the whole batch."""
    optimizer = MuonClip(model, CONFIG)
    processes, found, losses = datas * contexts, {}, []
    for step in range(STEPS):
        batch = packed(step)
        targets = (batch.targets_BT != IGNORE).sum()
        optimizer.zero_grad()
        part = split_context(part_of(batch, data, datas), context, contexts)
        loss = loss_of(model, part) * processes / targets
        loss.backward()
        total = loss.detach() / processes
        if processes > 1:
            dist.all_reduce(total)
            for parameter in model.parameters():
                if type(parameter.grad) is torch.Tensor:  # not spread: nobody has averaged it
                    dist.all_reduce(parameter.grad)
                    parameter.grad /= processes
        losses.append(total)
        gradients = {f"grad/{name}": whole(p.grad).clone() for name, p in model.named_parameters()}
        optimizer.step(0.5)
        found = found or gradients | {"max_logit": optimizer.max_logit_LH, "load": optimizer.load_LE}
    state = {name: whole(t).clone() for name, t in {**model.state_dict(), **optimizer.state_dict()}.items()}
    return {"losses": torch.stack(losses), **found, **state}


def train_shared(
    rank: int, processes: int, contexts: int, attention: str, fsdp: bool, experts: bool, recompute: bool
) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (processes // contexts, contexts), mesh_dim_names=("data", "context"))
    everyone, model = init_device_mesh("cpu", (processes,)), build(attention)
    reference.QUERY_BLOCK = cpu.QUERY_BLOCK = 3
    shard_context(model, mesh["context"])
    if recompute:
        recompute_activations(model)
    if experts:
        shard_experts(model, everyone)
    if fsdp:
        shard(model, everyone)
    return train(model, mesh.get_local_rank("data"), processes // contexts, mesh.get_local_rank("context"), contexts)


def assert_close(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert float((tensor - theirs[name]).abs().max()) <= 2e-5 * float(tensor.abs().max()), name


@pytest.mark.parametrize(
    ("processes", "contexts", "attention", "fsdp", "experts", "recompute"),
    [
        (2, 2, "mla", False, False, False), (2, 2, "mha", True, False, False), (4, 4, "mla", True, False, False),
        (4, 2, "mla", True, True, False), (4, 2, "mla", True, True, True), (4, 4, "mla", True, True, True),
    ],
    ids=["2-alone", "2-mha-fsdp", "4-fsdp", "data2x2-fsdp-ep", "data2x2-fsdp-ep-recomputed", "4-fsdp-ep-recomputed"],
)  # fmt: skip
def test_shared_rows_train_like_whole_ones(processes, contexts, attention, fsdp, experts, recompute, tmp_path):
    alone = train(build(attention))
    assert bool((alone["max_logit"] > CONFIG.qk_clip_threshold).any())
    results = run(processes, train_shared, tmp_path, contexts, attention, fsdp, experts, recompute)
    for result in results:
        assert_close(alone, result)
        assert all(torch.equal(tensor, results[0][name]) for name, tensor in result.items())


class Unordered(SharedRows):
    """A fault: keys in the order of the processes."""

    def gather(self, part):
        whole = super().gather(part)
        return torch.cat([whole[:, offset : offset + n] for r in (0, 1) for offset, n in SharedRows(None, r, 2).runs(
            part.shape[1])], dim=1)  # fmt: skip


class Segmentless(SharedRows):
    """A fault: everybody takes its own segments for the row's."""

    def reach(self, T, segments_BT):
        self.segments_BT = segments_BT
        return super().reach(T, segments_BT)

    def gather(self, part):
        return part.repeat(1, 2) if part is self.segments_BT else super().gather(part)


class Contiguous(SharedRows):
    """A fault: masks as if the process had one run of columns."""

    def runs(self, T):
        return [(self.rank * T, T)]


def losses_with_faults(rank: int, processes: int) -> dict[str, Any]:
    mesh, batch, losses = init_device_mesh("cpu", (processes,)), packed(0), {}
    for kind in (SharedRows, Unordered, Segmentless, Contiguous):
        model = build()
        shard_context(model, mesh)
        model.rows = kind(mesh.get_group(), rank, processes)
        losses[kind.__name__] = loss_of(model, split_context(batch, rank, processes)).detach()
        dist.all_reduce(losses[kind.__name__])
    with whole_rows(model), torch.no_grad():
        losses["whole"] = loss_of(model, batch)
    assert isinstance(model.rows, Contiguous)
    model.rows = SharedRows(mesh.get_group(), rank, processes)
    ours, theirs = split_context(batch, rank, processes), build()
    columns = model.rows.columns(T // processes, "cpu")
    losses["defaults"] = (model(ours.tokens_BT) - theirs(batch.tokens_BT)[:, columns]).detach().abs().max()
    with pytest.raises(ValueError, match=r"shared over one axis, but the mesh has shape \(2, 1\)"):
        shard_context(model, init_device_mesh("cpu", (2, 1), mesh_dim_names=("data", "context")))
    return losses


def test_faults_show_and_whole_rows_need_no_exchange(tmp_path):
    expected = float(loss_of(build(), packed(0)).detach())
    for losses in run(2, losses_with_faults, tmp_path):
        assert float(losses.pop("defaults")) < 1e-5
        wrong = [name for name, loss in losses.items() if float(loss) != pytest.approx(expected, rel=1e-5)]
        assert wrong == ["Unordered", "Segmentless", "Contiguous"]


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_parts_are_all_columns_once(ranks):
    batch = packed(0)
    parts = [split_context(batch, rank, ranks) for rank in range(ranks)]
    columns = torch.cat([SharedRows(None, rank, ranks).columns(T // ranks, "cpu") for rank in range(ranks)])
    assert columns.sort().values.tolist() == list(range(T))
    for name in ("tokens_BT", "targets_BT", "positions_BT", "segments_BT"):
        together = torch.cat([getattr(part, name) for part in parts], dim=1)
        assert torch.equal(together, getattr(batch, name)[:, columns]), name


def test_rows_that_cannot_be_shared_are_refused():
    with pytest.raises(ValueError, match=r"rows of 32 tokens cannot be shared by 3 processes: .* a multiple of 6"):
        split_context(packed(0), 0, 3)


@pytest.mark.parametrize(("length", "ranks"), [(2048, 1), (2048, 2), (2048, 4), (600, 4)])
def test_attention_is_shared_equally(length, ranks):
    k, v = torch.zeros(1, length, 3, 12), torch.zeros(1, length, 3, 8)
    work = []
    for rank in range(ranks):
        reach = SharedRows(None, rank, ranks).reach(length // ranks, None)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            reference.attention(k[:, : length // ranks], k, v, reach)
        work.append(counter.get_total_flops())
    assert max(work) == min(work)
    full = 2 * 3 * (12 + 8) * length**2
    # The masked half is skipped, as with whole rows.
    assert sum(work) <= full * (1 + reference.QUERY_BLOCK / length) / 2
