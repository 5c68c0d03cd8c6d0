"""Messages that wait for MLflow, across the death of the process that holds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from k2core.tracking.spool import LOST, Spool

START = ("1", {"type": "start", "stage": "rl"})
STATE = {"parent": "p", "open": {"7": ["sft", "r"]}}


def test_a_message_leaves_the_queue_once_it_was_taken(tmp_path: Path) -> None:
    spool, taken = Spool(tmp_path / "s.jsonl"), []
    for number in "123":
        spool.add((number, {"type": "metrics"}))

    def take(message: tuple) -> None:
        if message[0] == "2" and len(taken) == 1:
            taken.append("fault")
            raise ConnectionError
        taken.append(message[0])

    with pytest.raises(ConnectionError):
        spool.play(take)
    spool.save(STATE)
    spool.add(("4", {"type": "metrics"}))
    assert len(spool.path.read_text().splitlines()) == 4, "the state, what is left, and what came since"
    spool.play(take)
    assert taken == ["1", "fault", "2", "3", "4"]
    assert not spool.path.exists()


def test_another_process_goes_on_and_ends_the_stages_that_it_cannot_see(tmp_path: Path) -> None:
    first = Spool(tmp_path / "s.jsonl")
    first.add(START)
    first.save(STATE)
    with first.path.open("a") as file:
        file.write('["1", {"type": "met')  # killed while it wrote
    second = Spool(first.path)
    second.load(None)
    assert list(second.messages)[:2] == [("", {"type": "resume", "state": STATE}), START]
    assert {number: message["status"] for number, message in list(second.messages)[2:]} == {"7": LOST, "1": LOST}


def test_a_disk_without_room_leaves_the_messages_in_memory(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "nowhere" / "s.jsonl")
    spool.add(START)
    spool.save(STATE)
    spool.add(START)
    taken: list = []
    spool.play(taken.append)
    assert taken == [START, START]


def test_a_state_without_a_file_is_enough(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "s.jsonl")
    spool.load(STATE)
    assert [message["type"] for _, message in spool.messages] == ["resume", "end"]
