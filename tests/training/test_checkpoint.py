"""Checkpoints: whole or absent, refused when they are of something else, copied to S3, read by any number of ranks."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run as run_processes
from processes import sharing
from test_trainer import CHECKPOINT, Killed, Source, assert_equal, build, outcome, run

from k2core.machine import device
from k2core.model import parts
from k2core.model.sharded import whole as gathered
from k2core.storage import StorageError, s3
from k2core.training.checkpoint import CheckpointConfig, Checkpoints
from k2core.training.ranks import Ranks

MADE_FROM = {"tokens": "a", "tokenizer": "b", "model": "c"}


def config(**changes: Any) -> CheckpointConfig:
    return CheckpointConfig(**{**CHECKPOINT.model_dump(), **changes})


def checkpoints(
    folder: Path, said: list[str] | None = None, made_from: dict = MADE_FROM, **changes: Any
) -> Checkpoints:
    folder.mkdir(exist_ok=True)
    say = said.append if said is not None else print
    return Checkpoints(folder, config(**changes), made_from, say, "test")


def tensors(model: Any, optimizer: Any) -> dict[str, torch.Tensor]:
    return {**model.state_dict(), **{f"optimizer/{k}": v for k, v in optimizer.state_dict().items()}}


def filled(value: float) -> tuple[Any, Any]:
    """A model and optimiser whose numbers are all `value`."""
    model, optimizer = build()
    state = {name: torch.full_like(tensor, value) for name, tensor in optimizer.state_dict().items()}
    optimizer.load_state_dict(state)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(value)
    return model, optimizer


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def no_large_files(limit: int) -> Iterator[None]:
    """Writing beyond `limit` bytes of a file fails, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple:
    folder = tmp_path_factory.mktemp("whole")
    model, optimizer = build()
    run(folder, Source(), model, optimizer)
    return outcome(folder, model, optimizer)


@pytest.mark.parametrize("file", ["tensors", "state.json"])
@pytest.mark.parametrize("damage", ["cut", "flip", "gone"])
def test_a_torn_checkpoint_is_recognised_and_the_one_before_used(
    whole, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, damage: str
) -> None:
    with pytest.raises(Killed):
        run(tmp_path, Source(9), *build())
    folder = tmp_path / "scratch" / "step-00000008"
    [torn] = [folder / "state.json"] if file == "state.json" else folder.glob("*.safetensors")
    content = torn.read_bytes()
    middle = len(content) // 2
    if damage == "gone":
        torn.unlink()
    elif damage == "cut":
        torn.write_bytes(content[:middle])
    elif file == "tensors":  # a flipped bit in the middle of the weights
        torn.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        torn.write_bytes(b"{}")
    model, optimizer = build()
    source = Source()
    run(tmp_path, source, model, optimizer)
    assert source.asked[1] == 4
    assert "checkpoint passed over" in capsys.readouterr().out
    assert_equal(outcome(tmp_path, model, optimizer), whole)


def test_a_checkpoint_is_what_was_there_when_it_was_asked_for(tmp_path: Path) -> None:
    """Training goes on while it is written."""
    model, optimizer = filled(1.0)
    state = {"rows": [1]}
    kept = checkpoints(tmp_path)
    kept.save(1, model, optimizer, state)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7.0)
    state["rows"].append(2)
    kept.finish()
    model, optimizer = filled(0.0)
    assert checkpoints(tmp_path).restore(model, optimizer) == {"rows": [1]}
    assert all(bool((tensor == 1).all()) for tensor in tensors(model, optimizer).values())


def test_memory_for_the_copy_is_allocated_once_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, whose pinned memory ordinary memory stands for here."""
    allocated: list[torch.Tensor] = []
    monkeypatch.setattr(device, "here", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: allocated.append(tensor) or tensor)
    kept, (model, optimizer) = checkpoints(tmp_path), filled(0.0)
    assert kept.restore(model, optimizer) is None
    before = len(allocated)
    assert before == sum(tensor.ndim > 0 for tensor in tensors(model, optimizer).values())
    for step in (1, 2):
        model, optimizer = filled(float(step))
        kept.save(step, model, optimizer, {})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(7.0)
    kept.finish()
    assert len(allocated) == before
    for step in (2, 1):
        model, optimizer = filled(0.0)
        assert checkpoints(tmp_path).restore(model, optimizer) == {}
        assert all(bool((tensor == step).all()) for tensor in tensors(model, optimizer).values())
        shutil.rmtree(tmp_path / f"step-{step:08d}")


def test_large_states_are_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = filled(1.0)
    sizes = [4 * tensor.numel() for tensor in tensors(model, optimizer).values()]
    monkeypatch.setattr(parts, "FILE", sum(sizes) // 4)
    kept = checkpoints(tmp_path)
    kept.save(1, model, optimizer, {})
    kept.finish()
    files = list((tmp_path / "step-00000001").glob("*.safetensors"))
    assert len(files) >= 4 and max(file.stat().st_size for file in files) < sum(sizes) // 2
    model, optimizer = filled(0.0)
    assert checkpoints(tmp_path).restore(model, optimizer) == {}
    assert all(bool((tensor == 1).all()) for tensor in tensors(model, optimizer).values())


def test_no_pickle_is_written_or_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = checkpoints(tmp_path)
    kept.save(1, *filled(1.0), {})
    kept.finish()
    assert {path.suffix for path in (tmp_path / "step-00000001").iterdir()} == {".json", ".safetensors"}

    def refuse(*arguments: Any, **named: Any) -> None:
        raise AssertionError("a pickle was loaded")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load")):
        monkeypatch.setattr(module, name, refuse)
    assert checkpoints(tmp_path).restore(*build()) == {}


def test_the_newest_and_the_permanent_ones_are_kept(tmp_path: Path) -> None:
    kept = checkpoints(tmp_path, keep=2, permanent_every=3)
    for step in range(1, 9):
        kept.save(step, *filled(step), {"step": step})
    kept.finish()
    assert names(tmp_path) == [f"step-{step:08d}" for step in (3, 6, 7, 8)]


def test_a_checkpoint_of_something_else_is_refused_by_name(tmp_path: Path) -> None:
    kept = checkpoints(tmp_path)
    kept.save(1, *filled(1.0), {"step": 1})
    kept.finish()
    other = {**MADE_FROM, "tokens": "z", "tokenizer": "z", "code": "new"}
    with pytest.raises(StorageError) as caught:
        checkpoints(tmp_path, made_from=other, accept=["code"]).restore(*build())
    assert "step-00000001: made from another tokenizer, tokens; " in str(caught.value)
    assert "checkpoint.accept: [code, tokenizer, tokens]" in str(caught.value)
    assert checkpoints(tmp_path, made_from=other, accept=["code", "tokenizer", "tokens"]).restore(*build())


def test_checkpoints_of_another_attempt_are_named_with_what_goes_on_from_them(tmp_path: Path) -> None:
    first, said = tmp_path / "first", list[str]()
    kept = checkpoints(first)
    kept.save(1, *filled(1.0), {"step": 1})
    kept.finish()
    other = {**MADE_FROM, "parallel": "of two"}
    assert checkpoints(tmp_path / "second", said, other).restore(*build()) is None
    assert said == [
        f"{first}/step-00000001 is of another parallel and is left alone; to go on from it: checkpoint: "
        f"{{resume_from: {first}, accept: [parallel]}}"
    ]
    assert checkpoints(tmp_path / "third", said, other, resume_from=str(first), accept=["parallel"]).restore(*build())


def test_a_full_disk_is_one_sentence_and_costs_nothing(whole, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, Source(5), *build())
    with no_large_files(9000), pytest.raises(StorageError) as caught:
        run(tmp_path, Source(), *build())
    assert "a checkpoint could not be written" in str(caught.value) and "\n" not in str(caught.value)
    assert "the previous one is kept" in str(caught.value)
    assert names(tmp_path / "scratch") == ["step-00000004"]
    model, optimizer = build()
    source = Source()
    run(tmp_path, source, model, optimizer)
    assert source.asked[1] == 4
    assert_equal(outcome(tmp_path, model, optimizer), whole)


def test_an_empty_machine_goes_on_from_the_mirror(whole, bucket: str, tmp_path: Path) -> None:
    mirrored = {"checkpoint": config(mirror=f"{bucket}/runs")}
    with pytest.raises(Killed):
        run(tmp_path / "first", Source(9), *build(), **mirrored)
    # Killed for real, the copy of step 8 may be lacking; here it is made whole, then cut short by hand.
    place = s3.Bucket(f"{bucket}/runs/test")
    assert "step-00000004" in place.folders("state.json")
    place.remove("step-00000008")
    key = place._key("step-00000008/shard-00001-model-00001-of-00001.safetensors")
    place._client().put_object(Bucket=place.name, Key=key, Body=b"half")
    model, optimizer = build()
    source = Source()
    run(tmp_path / "second", source, model, optimizer, **mirrored)
    assert source.asked[1] == 4
    assert_equal(outcome(tmp_path / "second", model, optimizer), whole)
    assert place.folders("state.json") == ["step-00000008", "step-00000011"]  # `keep` holds for the mirror too

    # Another attempt may start from there as well, or from a folder.
    for at, number in ((f"{bucket}/runs/test", 1), (str(tmp_path / "second" / "scratch"), 2)):
        model, optimizer = build()
        source = Source()
        run(tmp_path / f"other{number}", source, model, optimizer, checkpoint=config(resume_from=at))
        assert source.asked[1:] == []
        assert_equal(outcome(tmp_path / f"other{number}", model, optimizer), whole)
    with pytest.raises(StorageError, match=r"resume_from: .*nothing has no sound checkpoint"):
        run(tmp_path / "none", Source(), *build(), checkpoint=config(resume_from=str(tmp_path / "nothing")))


def test_a_dead_mirror_is_said_and_costs_nothing(
    whole, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(s3, "ATTEMPTS", 1)
    model, optimizer = build()
    settings = config(mirror=bucket)
    alive = os.environ["AWS_ENDPOINT_URL"]
    source = Source()
    batch = source.batch

    def dies_after_the_start(step: int, rows: range = range(4)):
        if step == 1:
            monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        if step == 10:
            monkeypatch.setenv("AWS_ENDPOINT_URL", alive)
        return batch(step, rows)

    source.batch = dies_after_the_start
    run(tmp_path, source, model, optimizer, checkpoint=settings)
    assert_equal(outcome(tmp_path, model, optimizer), whole)
    said = capsys.readouterr().out
    assert "checkpoints could not be copied, training goes on" in said
    assert s3.Bucket(f"{bucket}/test").folders("state.json") == ["step-00000008", "step-00000011"]


def spread(rank: int, processes: int) -> tuple[Any, Any]:
    from k2core.optim.muonclip import MuonClip

    os.environ["RANK"] = str(rank)
    model, _ = build()
    parallel = sharing(processes, experts=processes, micro_batch_tokens=1)
    Ranks(processes, rank, 1).spread(model, parallel)
    from test_trainer import OPTIMIZER

    return model, MuonClip(model, OPTIMIZER)


def read(rank: int, processes: int, folder: Path, save_as: Path | None = None) -> dict[str, torch.Tensor]:
    model, optimizer = spread(rank, processes)
    kept = checkpoints(folder)
    assert kept.restore(model, optimizer) == {"step": 3}
    if save_as:
        other = checkpoints(save_as)
        other.save(3, model, optimizer, {"step": 3})
        other.finish()
    return {name: gathered(tensor).clone() for name, tensor in tensors(model, optimizer).items()}


def test_any_number_of_processes_reads_what_another_number_wrote(tmp_path: Path) -> None:
    model, optimizer = build()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in tensors(model, optimizer).values():
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
    optimizer.load_state_dict({k: torch.rand(v.shape, generator=generator) for k, v in optimizer.state_dict().items()})
    kept = checkpoints(tmp_path / "one")
    kept.save(3, model, optimizer, {"step": 3})
    kept.finish()
    wanted = {name: tensor.clone() for name, tensor in tensors(model, optimizer).items()}
    for number, source in ((2, "one"), (4, "2")):
        found = run_processes(number, read, _folder(tmp_path / f"p{number}"), tmp_path / source, tmp_path / str(number))
        for state in found:
            assert all(torch.equal(state[name], tensor) for name, tensor in wanted.items())
    assert len(list((tmp_path / "4" / "step-00000003").glob("*.safetensors"))) == 4
    model, optimizer = build()
    assert checkpoints(tmp_path / "4").restore(model, optimizer) == {"step": 3}
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in tensors(model, optimizer).items())


def fail_on_one(rank: int, processes: int, folder: Path) -> str:
    model, optimizer = spread(rank, processes)
    kept = checkpoints(folder)
    kept.save(1, model, optimizer, {"step": 1})
    kept._wait()
    with no_large_files(2000 if rank else 10**9):
        kept.save(2, model, optimizer, {"step": 2})
        try:
            kept.finish()
        except StorageError as error:
            return str(error)
    return "written"


def test_all_processes_learn_that_one_could_not_write(tmp_path: Path) -> None:
    said = run_processes(2, fail_on_one, _folder(tmp_path / "p"), tmp_path / "kept")
    assert all("a checkpoint could not be written" in sentence for sentence in said)
    assert names(tmp_path / "kept") == ["step-00000001"]
    assert json.loads((tmp_path / "kept" / "step-00000001" / "state.json").read_text())["step"] == 1


def _folder(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path
