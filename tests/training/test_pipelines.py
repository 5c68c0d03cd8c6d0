"""Pipelines, alone and with other divisions, train like one process; what one stage finds, all know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from processes import CONFIG, SHAPE, run
from test_mesh import assert_close, parallel, rows_of, train

from k2core.model.sharded import whole
from k2core.model.transformer import Transformer
from k2core.optim.muonclip import MuonClip
from k2core.optim.sharding import local
from k2core.training.config import ParallelConfig
from k2core.training.dividing import DoesNotDivide, check_model, rows_at_once
from k2core.training.pieces import layers_of
from k2core.training.ranks import Ranks

LAYERS = 5
POISONED = "layers.4.mlp.shared_experts.down_proj"


def build() -> Transformer:
    torch.manual_seed(0)
    return Transformer(SHAPE.model_copy(update={"num_hidden_layers": LAYERS}))


def spread(rank: int, config: ParallelConfig) -> tuple[Ranks, Transformer]:
    ranks, model = Ranks(config.processes, rank, config.context, config.pipeline), build()
    ranks.spread(model, config)
    return ranks, model


def train_spread(rank: int, processes: int, sizes: dict[str, Any]) -> dict[str, Any]:
    config = parallel(processes, **sizes)
    ranks, model = spread(rank, config)
    batch = rows_of(9, range(2))
    logits = ranks.whole_rows(model)
    inputs = (batch.tokens_BT, batch.positions_BT, batch.segments_BT)
    with torch.no_grad():
        before = logits(*inputs)
    found = train(ranks, model, config)
    with torch.no_grad():
        return found | {"before": before, "after": logits(*inputs, wanted_BT=batch.tokens_BT > 30)}


def alone() -> dict[str, Any]:
    model, batch = build(), rows_of(9, range(2))
    inputs = (batch.tokens_BT, batch.positions_BT, batch.segments_BT)
    with torch.no_grad():
        before = model(*inputs)
    found = train(Ranks(), model, parallel(1))
    with torch.no_grad():
        return found | {"before": before, "after": model(*inputs, wanted_BT=batch.tokens_BT > 30)}


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return alone()


@pytest.mark.parametrize(
    ("processes", "sizes"),
    [
        (2, {"pipeline": 2}),
        (2, {"pipeline": 2, "virtual": 2, "recompute": True}),
        (4, {"pipeline": 2, "virtual": 2}),
        (4, {"pipeline": 2, "experts": 2}),
        (4, {"pipeline": 2, "context": 2}),
        (4, {"pipeline": 4}),
        pytest.param(8, {"pipeline": 2, "experts": 2, "context": 2}, marks=pytest.mark.slow),
    ],
    ids=lambda value: "-".join(f"{k}{v}" for k, v in value.items()) if isinstance(value, dict) else str(value),
)
def test_a_pipeline_trains_like_one_process(
    processes: int, sizes: dict[str, Any], expected: Any, tmp_path: Path
) -> None:
    results = run(processes, train_spread, tmp_path, sizes)
    for found in results:
        assert_close(found, expected)
    names = {name for found in results for name in found}
    assert names == expected.keys()
    stages = sizes["pipeline"]
    first, last = results[0], results[-1]
    assert "embed_tokens.weight" in first and "embed_tokens.weight" not in last
    assert "lm_head.weight" in last and "lm_head.weight" not in first
    assert sum("grad/layers.2.input_layernorm.weight" in found for found in results) == processes // stages


def poisoned(rank: int, processes: int) -> str:
    """One stage's gradient is not finite: what this process then says."""
    config = parallel(processes, pipeline=2)
    ranks, model = spread(rank, config)
    optimizer = MuonClip(model, CONFIG)
    batches = [rows_of(0, range(at, at + 2)) for at in (0, 2)]
    ranks.backward(model, batches, 100.0)
    before = {name: whole(tensor).clone() for name, tensor in model.state_dict().items()}
    if rank == 1:
        local(model.get_parameter(POISONED).grad)[0] = torch.nan
    with pytest.raises(FloatingPointError) as refused:
        optimizer.step(1.0)
    assert all(torch.equal(whole(tensor), before[name]) for name, tensor in model.state_dict().items())
    if rank == 1:
        local(model.get_parameter(POISONED).grad).nan_to_num_()
    optimizer.step(1.0)
    return str(refused.value)


def test_a_fault_of_one_stage_is_known_to_all(tmp_path: Path) -> None:
    first, second = run(2, poisoned, tmp_path)
    assert f"first {POISONED}" in first and f"first {POISONED}" in second


@pytest.mark.parametrize(("layers", "pieces"), [(61, 48), (61, 16), (5, 4), (6, 3), (4, 1), (7, 7)])
def test_every_layer_is_in_one_piece(layers: int, pieces: int) -> None:
    cuts = [layers_of(layers, pieces, number) for number in range(pieces)]
    assert [layer for cut in cuts for layer in cut] == list(range(layers))
    sizes = [len(cut) for cut in cuts]
    assert max(sizes) - min(sizes) <= 1 and sizes[0] == min(sizes) and (sizes[-1] == min(sizes) or max(sizes) > 1)


def test_what_does_not_fill_a_pipeline_is_refused_with_the_nearest_that_does() -> None:
    with pytest.raises(DoesNotDivide) as refused:
        rows_at_once(6, 32, 64, pipeline=2)
    assert str(refused.value) == (
        "3 micro-batches per step are not a multiple of the pipeline's 2 stages; the nearest that can: 2 or 4 "
        "micro-batches (parallel.micro_batch_tokens, batch_tokens)"
    )
    with pytest.raises(
        DoesNotDivide, match=r"3 layers are fewer than 2 × 2 pieces of a pipeline; .* parallel.virtual 1"
    ):
        check_model(parallel(2, pipeline=2, virtual=2), SHAPE)
    with pytest.raises(ValueError, match="processes 6 is not a multiple of pipeline 2 × replicas 1 × context 2"):
        parallel(6, pipeline=2, context=2)
