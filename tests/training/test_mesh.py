"""Every division of a training over processes gives the losses, gradients, maxima, loads and weights of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from processes import CONFIG, SHAPE, run, sharing
from test_context_parallel import T, build, packed

from k2core.data.rows.batch import IGNORE, Batch
from k2core.model.sharded import whole
from k2core.model.transformer import Transformer
from k2core.optim.muonclip import MuonClip
from k2core.optim.sharding import local
from k2core.training.config import ParallelConfig
from k2core.training.dividing import DoesNotDivide, check_columns, check_model, rows_at_once, rows_each
from k2core.training.ranks import Ranks

STEPS, ROWS, AT_ONCE = 3, 8, 2


def parallel(processes: int, **sizes: Any) -> ParallelConfig:
    return sharing(processes, micro_batch_tokens=AT_ONCE * T, **sizes)


def rows_of(step: int, rows: range) -> Batch:
    """Rows of a step's eight, packed, with padding and columns without targets."""
    halves = packed(2 * step), packed(2 * step + 1)
    names = ("tokens_BT", "targets_BT", "positions_BT", "segments_BT")
    return Batch(*(torch.cat([getattr(half, name) for half in halves])[rows.start : rows.stop] for name in names))


def train(ranks: Ranks, model: Transformer, config: ParallelConfig) -> dict[str, Any]:
    """Three steps; losses, first gradients and largest logits, weights and optimiser state: this rank's layers."""
    optimizer = MuonClip(model, CONFIG)
    losses, found = [], {}
    for step in range(STEPS):
        rows = ranks.rows(ROWS)
        at_once = rows_at_once(len(rows), T, config.micro_batch_tokens, config.context)
        starts = range(rows.start, rows.stop, at_once)
        batches = [ranks.part(rows_of(step, range(start, start + at_once))) for start in starts]
        targets = int((rows_of(step, range(ROWS)).targets_BT != IGNORE).sum())
        optimizer.zero_grad()
        [nats] = ranks.sum(ranks.backward(model, batches, targets))
        losses.append(nats / targets)
        norm = optimizer.gradient_norm()
        gradients = {f"grad/{name}": whole(p.grad).clone() for name, p in model.named_parameters()}
        figures = optimizer.step(0.5, norm)
        found = found or gradients | {"norm": torch.tensor(norm), "max_logit": optimizer.max_logit_LH}
        found |= {"load": optimizer.load_LE, "figures": torch.tensor(list(figures.values()))}
    state = {name: whole(t).clone() for name, t in {**model.state_dict(), **optimizer.state_dict()}.items()}
    return {"losses": torch.tensor(losses), **found, **state}


def train_spread(rank: int, processes: int, sizes: dict[str, Any]) -> dict[str, Any]:
    config = parallel(processes, **sizes)
    ranks, model = Ranks(processes, rank, config.context), build()
    ranks.spread(model, config)
    found = train(ranks, model, config)
    expected = (
        SHAPE.n_routed_experts // config.experts if config.experts > 1 else -(-SHAPE.n_routed_experts // config.shards)
    )
    gate_up = model.get_parameter("layers.1.mlp.experts.gate_up_proj")
    assert local(gate_up).numel() == gate_up.numel() // config.shards
    assert len(local(gate_up)) == expected
    return found


def events_on_rank(rank: int, processes: int) -> list[str]:
    """What a layer with experts does in a forward pass: start an exchange, wait for one, compute the shared expert."""
    from torch.distributed._functional_collectives import AsyncCollectiveTensor

    import k2core.training.parallel as module

    config = parallel(processes, experts=processes)
    ranks, model = Ranks(processes, rank, config.context), build()
    ranks.spread(model, config)
    events = list[str]()
    exchange, wait = module.all_to_all_single_autograd, AsyncCollectiveTensor.trigger_wait

    def started(*arguments: Any) -> torch.Tensor:
        events.append("exchange")
        return exchange(*arguments)

    def waited(tensor: AsyncCollectiveTensor) -> torch.Tensor:
        if not tensor.completed:
            events.append("wait")
        return wait(tensor)

    mixture = model.blocks()[-1].mlp
    mixture.shared_experts.register_forward_hook(lambda *_: events.append("shared"))
    module.all_to_all_single_autograd = started  # type: ignore[assignment]
    x_NTD = torch.randn(1, T, SHAPE.hidden_size)
    for unit in (model, model.blocks()[-1]):
        unit.unshard()  # type: ignore[operator]
    AsyncCollectiveTensor.trigger_wait = waited  # type: ignore[method-assign]
    mixture(x_NTD)
    return events


def test_the_shared_expert_is_computed_while_tokens_travel(tmp_path: Path) -> None:
    for events in run(2, events_on_rank, tmp_path):
        assert events == ["exchange", "shared", "wait", "exchange", "wait"]


def assert_close(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for name, tensor in ours.items():
        assert float((tensor - theirs[name]).abs().max()) <= 2e-5 * float(theirs[name].abs().max()), name


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    found = train(Ranks(), build(), parallel(1))
    assert bool((found["max_logit"] > CONFIG.qk_clip_threshold).any())
    return found


@pytest.mark.parametrize(
    ("processes", "sizes"),
    [
        (4, {"experts": 2}),
        (4, {"replicas": 2, "experts": 2}),
        (4, {"experts": 2, "context": 2, "recompute": True}),
        pytest.param(8, {"replicas": 2, "experts": 2, "context": 2}, marks=pytest.mark.slow),
    ],
    ids=lambda value: "-".join(f"{k}{v}" for k, v in value.items()) if isinstance(value, dict) else str(value),
)
def test_every_mesh_trains_like_one_process(processes: int, sizes: dict[str, Any], alone: Any, tmp_path: Any) -> None:
    for found in run(processes, train_spread, tmp_path, sizes):
        assert_close(found, alone)
        assert found.keys() == alone.keys()


REFUSED = {
    "64 rows per step cannot be shared out over 6 groups equally; the nearest that can: 60 or 66 rows": (
        lambda: rows_each(64, 6)
    ),
    "a process's 8 rows per step are not a multiple of the 3 rows that parallel.micro_batch_tokens 96 makes; the "
    "nearest that can: micro-batches of 2 or 4 rows of 32 tokens": lambda: rows_at_once(8, 32, 96),
    "rows of 30 tokens cannot be cut into 2 × 4 equal chunks; the nearest that can: 24 or 32 tokens": (
        lambda: check_columns(30, 4)
    ),
    "8 routed experts cannot be shared out equally over 3 ranks; the nearest that can: parallel.experts 2 or 4": (
        lambda: check_model(parallel(3, experts=3), SHAPE)
    ),
    "the 3 ranks with the same experts cannot cut matrices of 16 and 32 rows equally; the nearest that can: 2 or 4 "
    "such ranks (processes / pipeline / replicas / experts)": lambda: check_model(parallel(6, experts=2), SHAPE),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_does_not_divide_is_refused_with_the_nearest_that_does(sentence: str) -> None:
    with pytest.raises(DoesNotDivide) as refused:
        REFUSED[sentence]()
    assert str(refused.value) == sentence
