"""Checkpoints when several things go wrong: remains never replace sound checkpoints or mix with them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from test_checkpoint import checkpoints, filled, names, no_large_files, tensors

from k2core.storage import StorageError, s3
from k2core.training import checkpoint

STATE = "state.json"


def write(folder: Path, *steps: int, said: list[str] | None = None, **changes) -> None:
    kept = checkpoints(folder, said, **changes)
    for step in steps:
        kept.save(step, *filled(step), {"step": step})
    kept.finish()


def tear(folder: Path, step: int) -> None:
    """Cut the tensors of a checkpoint short."""
    [file] = (folder / f"step-{step:08d}").glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])


def restored(folder: Path, said: list[str] | None = None, **changes) -> int | None:
    """The step that is restored; all numbers must be those of that step."""
    model, optimizer = filled(0.0)
    state = checkpoints(folder, said, **changes).restore(model, optimizer)
    value = 0 if state is None else state["step"]
    assert all(bool((tensor == value).all()) for tensor in tensors(model, optimizer).values())
    return state and state["step"]


def test_a_changed_number_in_the_state_is_recognised(tmp_path: Path) -> None:
    """It is still valid JSON."""
    write(tmp_path, 1, 2)
    state = tmp_path / "step-00000002" / STATE
    text = state.read_text()
    assert text.count('"step": 2') == 1
    state.write_text(text.replace('"step": 2', '"step": 3'))
    said: list[str] = []
    assert restored(tmp_path, said) == 1
    assert said == [f"checkpoint passed over: {state} is torn"]


def test_a_file_of_another_checkpoint_is_recognised(tmp_path: Path) -> None:
    """DCP would read every safetensors file of the folder."""
    write(tmp_path, 1, 2)
    [file] = (tmp_path / "step-00000001").glob("*.safetensors")
    (tmp_path / "step-00000002" / "shard-00002-model-00001-of-00001.safetensors").write_bytes(file.read_bytes())
    assert restored(tmp_path) == 1


@pytest.mark.parametrize("keep", [1, 2])
def test_torn_checkpoints_do_not_drive_out_sound_ones(tmp_path: Path, keep: int) -> None:
    write(tmp_path, 10, 20, 30, 35, keep=4)
    tear(tmp_path, 30)
    tear(tmp_path, 35)
    kept = checkpoints(tmp_path, keep=keep)
    assert kept.restore(*filled(0.0)) == {"step": 20}
    kept.save(32, *filled(32), {"step": 32})
    kept.finish()
    assert names(tmp_path) == ["step-00000020", "step-00000032"][-keep:]
    assert restored(tmp_path) == 32


def test_what_a_killed_attempt_left_half_written_is_removed(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / ".step-00000002.partial").mkdir()
    (tmp_path / ".step-00000002.partial" / "shard-00009-model-00001-of-00001.safetensors").write_bytes(b"half")
    assert restored(tmp_path) == 1
    assert names(tmp_path) == ["step-00000001"]


def test_another_models_checkpoint_is_one_sentence(tmp_path: Path) -> None:
    write(tmp_path, 1)
    model, optimizer = filled(0.0)
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(3, 5))
    with pytest.raises(StorageError) as caught:
        checkpoints(tmp_path).restore(model, optimizer)
    assert "step-00000001: does not fit this model (process 0: " in str(caught.value)
    assert "model/lm_head.weight" in str(caught.value) and "\n" not in str(caught.value)


def test_an_unwritable_folder_is_one_sentence(tmp_path: Path) -> None:
    kept = checkpoints(tmp_path / "kept")
    (tmp_path / "kept").rmdir()
    (tmp_path / "kept").write_text("a file is in the way")
    kept.save(1, *filled(1.0), {})
    with pytest.raises(StorageError, match=r"not be written \(process 0: .*Not a directory") as caught:
        kept.finish()
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("elsewhere", ["folder", "mirror", "other bucket"])
def test_the_newest_sound_one_of_another_place_is_used(bucket: str, tmp_path: Path, elsewhere: str) -> None:
    write(tmp_path / "first", 1, 2, mirror=bucket)
    changes = {
        "folder": {"resume_from": str(tmp_path / "first")},
        "mirror": {"mirror": f"{bucket}/"},
        "other bucket": {"resume_from": f"{bucket}/test"},
    }[elsewhere]
    tear(tmp_path / "first", 2)
    place = s3.Bucket(f"{bucket}/test")
    client = place._client()
    client.put_object(Bucket=place.name, Key=next(place._keys(client, "step-00000002/shard")), Body=b"torn")
    said: list[str] = []
    assert restored(tmp_path / "second", said, **changes) == 1
    assert any("passed over" in line and "step-00000002" in line for line in said)
    assert names(tmp_path / "second")[-1] in ("step-00000001", "step-00000002")  # nothing half-fetched


def test_the_mirror_mends_a_torn_folder(bucket: str, tmp_path: Path) -> None:
    write(tmp_path, 1, mirror=bucket)
    tear(tmp_path, 1)
    assert restored(tmp_path, mirror=bucket) == 1
    assert restored(tmp_path) == 1


def test_fewer_processes_leave_no_shards_of_more_in_the_mirror(bucket: str, tmp_path: Path) -> None:
    """Step 1 was once written by two processes, whose second part would be read together with the new one."""
    write(tmp_path / "first", 1, mirror=bucket)
    place = s3.Bucket(f"{bucket}/test")
    client = place._client()
    client.put_object(Bucket=place.name, Key=place._key("step-00000001/shard-00002-model-00001-of-00001.safetensors"))
    client.put_object(Bucket=place.name, Key=place._key(f"step-00000001/{STATE}"), Body=b"of two")
    place.upload(tmp_path / "first" / "step-00000001", last=STATE)
    assert len(list(place._keys(client, "step-00000001/"))) == 2
    assert restored(tmp_path / "second", mirror=bucket) == 1


def test_a_torn_folder_is_not_copied_over_a_sound_one(bucket: str, tmp_path: Path) -> None:
    write(tmp_path, 1, 2, mirror=bucket, keep=3)
    (tmp_path / "step-00000001" / STATE).unlink()
    kept = checkpoints(tmp_path, mirror=bucket, keep=3)
    assert kept.restore(*filled(0.0)) == {"step": 2}
    kept.save(3, *filled(3), {"step": 3})
    kept.finish()
    place = s3.Bucket(f"{bucket}/test")
    assert place.folders(STATE) == [f"step-{step:08d}" for step in (1, 2, 3)]
    place.download("step-00000001", tmp_path / "back")
    assert json.loads((tmp_path / "back" / STATE).read_text())["step"] == 1


def test_what_is_mirrored_is_not_read_again(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = checkpoints(tmp_path, mirror=bucket, keep=9)
    for step in (1, 2, 3):
        kept.save(step, *filled(step), {"step": step})
    kept._wait()
    hashed: list[tuple[str, str]] = []
    real = s3.sha256
    monkeypatch.setattr(s3, "sha256", lambda path: hashed.append((path.parent.name, path.suffix)) or real(path))
    kept.save(4, *filled(4), {"step": 4})
    kept.finish()
    assert {folder for folder, suffix in hashed if suffix == ".safetensors"} == {"step-00000004"}


def test_the_end_tries_the_mirror_once_more(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "ATTEMPTS", 1)
    alive, said = os.environ["AWS_ENDPOINT_URL"], []
    kept = checkpoints(tmp_path, said, mirror=bucket)
    for endpoint in ("http://127.0.0.1:9", "no address"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        kept.save(1, *filled(1), {"step": 1})
        kept._wait()
        assert "could not be copied, training goes on" in said[-1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", alive)
    kept.finish()
    assert len(said) == 2
    assert s3.Bucket(f"{bucket}/test").folders(STATE) == ["step-00000001"]


def test_an_empty_machine_does_not_start_anew_because_the_mirror_is_away(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "ATTEMPTS", 1)
    write(tmp_path / "first", 1, mirror=bucket)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StorageError, match="Could not connect"):
        restored(tmp_path / "second", mirror=bucket)


def test_a_disk_too_small_for_the_fetched_one_is_one_sentence(bucket: str, tmp_path: Path) -> None:
    write(tmp_path / "first", 1, mirror=bucket)
    with no_large_files(9000), pytest.raises(StorageError, match="no checkpoint could be brought there"):
        restored(tmp_path / "second", mirror=bucket)
    assert restored(tmp_path / "second", mirror=bucket) == 1


def test_a_mirror_removes_nothing_of_the_stage(bucket: str, tmp_path: Path) -> None:
    """`..` and `.` beside the checkpoints: restoring them would replace the folder, or all that is around it."""
    write(tmp_path / "first", 1, mirror=bucket)
    place = s3.Bucket(f"{bucket}/test")
    for name in ("..", ".", "step-1/..", "step-none", "step-99999999x", "notes"):
        place._client().put_object(Bucket=place.name, Key=place._key(f"{name}/{STATE}"), Body=b"{}")
    scratch = tmp_path / "scratch"
    (scratch / "folder").mkdir(parents=True)
    for kept in (scratch / "kept", scratch / "folder" / "kept"):
        kept.write_text("mine")
    (scratch / "folder" / "step-old").mkdir()
    assert restored(scratch / "folder", mirror=bucket) == 1
    assert names(scratch) == ["folder", "kept"]
    assert names(scratch / "folder") == ["kept", "step-00000001", "step-old"]
    write(scratch / "folder", 2, mirror=bucket)  # what is not ours in the mirror stays, and stops nothing


@pytest.mark.parametrize("state", ["[" * 200_000, '{"a":' * 200_000, "9" * 5000, "null", "{}"])
def test_a_state_that_cannot_be_read_is_passed_over(tmp_path: Path, state: str) -> None:
    write(tmp_path, 1, 2)
    (tmp_path / "step-00000002" / STATE).write_text(state)
    said: list[str] = []
    assert restored(tmp_path, said) == 1
    assert len(said) == 1 and said[0].startswith("checkpoint passed over: ")


@pytest.mark.parametrize("content", [{}, {"files": 3}, {"files": {}, "fingerprint": []}])
def test_a_forged_state_with_a_right_digest_is_passed_over(tmp_path: Path, content: dict) -> None:
    write(tmp_path, 1, 2)
    forged = {"sha256": checkpoint._digest(content), **content}
    (tmp_path / "step-00000002" / STATE).write_text(json.dumps(forged))
    said: list[str] = []
    assert restored(tmp_path, said) == 1 and len(said) == 1
