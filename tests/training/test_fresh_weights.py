"""Fresh weights drawn in parts are those that one process draws, and need memory for the parts alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from processes import SHAPE, everything, run
from test_mesh import parallel

from k2core.model import fresh
from k2core.model.transformer import Transformer
from k2core.training.ranks import Ranks
from k2core.training.throughput import memory_gib

CPU = torch.device("cpu")

ODD = SHAPE.model_copy(update={"vocab_size": 61, "kv_lora_rank": 11, "num_hidden_layers": 5})
"""Matrices that are no multiple of 16 numbers, and rows that the processes do not divide."""
LARGE = SHAPE.model_copy(
    update={
        "hidden_size": 512, "moe_intermediate_size": 256, "num_hidden_layers": 4,
        "first_k_dense_replace": 0,
    }
)  # fmt: skip
"""Fresh weights of 57 MB, as many on either stage."""


def drawn_in_parts(rank: int, processes: int, sizes: dict[str, Any]) -> dict[str, torch.Tensor]:
    fresh.NUMBERS = 1000  # many pieces of a matrix
    config = parallel(processes, **sizes)
    torch.manual_seed(3)
    model = Ranks(processes, rank, config.context, config.pipeline).fresh(ODD, config)
    assert not any(bool(attention.max_logit_H.isfinite().any()) for attention in model.attentions())
    return everything(model.state_dict(), model.stages) | {"next": torch.rand(4)}


@pytest.fixture(scope="module")
def alone() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    model = Transformer(ODD)
    return model.state_dict() | {"next": torch.rand(4)}


@pytest.mark.parametrize(
    ("processes", "sizes"),
    [
        (2, {}),
        (2, {"pipeline": 2, "virtual": 2}),
        (4, {"replicas": 2, "experts": 2, "context": 2}),
        (4, {"pipeline": 2, "experts": 2}),
        pytest.param(8, {"pipeline": 2, "replicas": 2, "experts": 2}, marks=pytest.mark.slow),
    ],
    ids=lambda value: "-".join(f"{k}{v}" for k, v in value.items()) if isinstance(value, dict) else str(value),
)
def test_every_mesh_has_the_weights_of_one_process(
    processes: int, sizes: dict[str, Any], alone: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    for found in run(processes, drawn_in_parts, tmp_path, sizes):
        assert found.keys() == alone.keys()
        for name, tensor in found.items():
            assert torch.equal(tensor, alone[name]), name


def most_memory(rank: int, processes: int) -> tuple[float, float]:
    """By how much a process's largest memory grows with its parts, and with the whole model; shares of its weights."""
    config, ranks = parallel(processes, pipeline=2, experts=2), Ranks(processes, rank, 1, 2)
    with torch.device("meta"):
        size = sum(4 * parameter.numel() for parameter in Transformer(LARGE).parameters()) / 2**30
    fresh.NUMBERS = 2**18
    ranks.fresh(ODD, config)  # loads what any needs
    before = memory_gib(CPU)
    model = ranks.fresh(LARGE, config)
    own = memory_gib(CPU)
    del model
    Transformer(LARGE)
    return (own - before) / size, (memory_gib(CPU) - before) / size


def test_a_process_has_memory_for_its_parts_alone(tmp_path: Path) -> None:
    for own, whole in run(4, most_memory, tmp_path):
        assert own < 0.5 < 0.9 < whole, "a quarter of the weights, and what is drawn at once"
