"""What a stage on some processes leaves, a stage on others goes on from; nobody ever has the whole of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from processes import CONFIG, everything, run
from test_mesh import parallel, rows_of
from test_pipelines import build, spread
from torch.distributed.tensor import DTensor

from k2core.model import parts
from k2core.model.files import load_model, save_model
from k2core.optim.muonclip import MuonClip
from k2core.storage import StorageError
from k2core.training.optimizer_state import load_optimizer, save_optimizer
from k2core.training.ranks import Ranks


def refuse(*arguments: Any, **named: Any) -> None:
    raise AssertionError("a tensor was gathered")


def stepped(ranks: Ranks, model: Any) -> MuonClip:
    """The optimiser of `model` after one step."""
    optimizer = MuonClip(model, CONFIG)
    optimizer.zero_grad()
    ranks.backward(model, [ranks.part(rows_of(0, range(at, at + 2))) for at in (0, 2)], 100.0)
    optimizer.step(1.0)
    return optimizer


def saved(model: Any, optimizer: MuonClip, folder: Path) -> None:
    save_model(model, folder)
    save_optimizer(optimizer, folder)


def wrote(rank: int, processes: int, sizes: dict[str, Any], folder: Path) -> dict[str, torch.Tensor]:
    """One of `processes` that make a step and write; the whole of what it then has."""
    parts.FILE = 20_000
    ranks, model = spread(rank, parallel(processes, **sizes))
    optimizer = stepped(ranks, model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DTensor, "full_tensor", refuse)
        saved(model, optimizer, folder if rank == 0 else folder / f"elsewhere-{rank}")
    return everything({**model.state_dict(), **optimizer.state_dict()}, model.stages)


def found(rank: int, processes: int, sizes: dict[str, Any], folder: Path) -> dict[str, torch.Tensor]:
    """One of `processes` that read; what a forward pass without targets returns, too."""
    config = parallel(processes, **sizes)
    ranks = Ranks(processes, rank, config.context, config.pipeline)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DTensor, "full_tensor", refuse)
        model = ranks.load(folder, config)
        optimizer = MuonClip(model, CONFIG)
        load_optimizer(optimizer, folder)
    with torch.no_grad():
        logits = ranks.whole_rows(model)(rows_of(0, range(1)).tokens_BT)
    state = everything({**model.state_dict(), **optimizer.state_dict()}, model.stages)
    if not model.pipeline:
        sampler = ranks.whole(model)
        assert all(torch.equal(tensor, state[name]) for name, tensor in sampler.state_dict().items())
    stepped(ranks, model)  # what is in no file is as in a new model
    return {**state, "logits": logits}


def alone(folder: Path) -> dict[str, torch.Tensor]:
    model = load_model(folder)
    optimizer = MuonClip(model, CONFIG)
    load_optimizer(optimizer, folder)
    with torch.no_grad():
        logits = model(rows_of(0, range(1)).tokens_BT)
    return {**model.state_dict(), **optimizer.state_dict(), "logits": logits}


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        if name == "logits":
            assert torch.allclose(tensor, theirs[name], atol=2e-5)
        else:
            assert torch.equal(tensor, theirs[name]), name


@pytest.fixture(scope="module")
def of_four(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """What 4 processes, two stages whose experts lie on two each, wrote, and what it was."""
    root = tmp_path_factory.mktemp("four")
    results = run(4, wrote, root, {"pipeline": 2, "experts": 2}, root / "made")
    wanted = results[0] | results[3]
    assert wanted["muon/layers.1.self_attn.o_proj.weight"].any()
    return root / "made", wanted


def test_one_process_reads_what_four_wrote(of_four: Any) -> None:
    folder, wanted = of_four
    assert_same(alone(folder) | {"logits": torch.zeros(())}, wanted | {"logits": torch.zeros(())})
    files = [file for name in ("model", "optimizer") for file in (folder / name).iterdir()]
    assert {file.suffix for file in files} == {".safetensors"} and len(files) > 8
    assert not list(folder.parent.rglob("elsewhere-*/*/*"))


@pytest.mark.parametrize(
    ("processes", "sizes"), [(2, {}), (2, {"pipeline": 2}), (4, {"replicas": 2, "experts": 2, "context": 2})]
)
def test_another_mesh_reads_what_four_wrote(
    of_four: Any, processes: int, sizes: dict[str, Any], tmp_path: Path
) -> None:
    folder, wanted = of_four
    own = alone(folder)
    for state in run(processes, found, tmp_path, sizes, folder):
        assert_same(state, wanted | {"logits": own["logits"]})


def test_two_processes_read_what_one_wrote(tmp_path: Path) -> None:
    model = build()
    saved(model, stepped(Ranks(), model), tmp_path / "made")
    assert (tmp_path / "made" / "model.safetensors").exists()
    own = alone(tmp_path / "made")
    for state in run(2, found, tmp_path, {"experts": 2}, tmp_path / "made"):
        assert_same(state, own)


def test_what_is_lost_or_torn_is_said_in_a_sentence(of_four: Any, tmp_path: Path) -> None:
    folder, _ = of_four
    with pytest.raises(StorageError, match=r"optimizer.safetensors: no such file; run the stage"):
        load_optimizer(MuonClip(build(), CONFIG), tmp_path)
    faults = set[bool]()
    lost = "a part of .* is not there|does not fit this model .process 0: (Size mismatch|Missing key)"
    for fault, said in (("lost", lost), ("torn", "not whole safetensors files")):
        for file in (folder / "model").iterdir():
            bytes_ = file.read_bytes()
            if fault == "lost":
                file.unlink()
            else:
                file.write_bytes(bytes_[: len(bytes_) // 2])
            with pytest.raises(StorageError, match=said) as caught:
                load_model(folder)
            assert "\n" not in str(caught.value)
            faults.add("a part of" in str(caught.value))
            file.write_bytes(bytes_)
    assert faults == {True, False}
    load_model(folder)
