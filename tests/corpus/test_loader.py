"""The loader: a pure function of the step; no document twice in an epoch, across phases; exact accounting."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from k2core.corpus.batch import IGNORE, Batch
from k2core.corpus.loader import PhaseSource
from k2core.corpus.shards import Document, Shards, write_shards
from k2core.storage import StorageError

EOS = 4000
DOCUMENTS = 60


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """Document i of `web` consists of tokens i alone, of `code` of tokens 1000 + i: its tokens name it."""
    folder = tmp_path_factory.mktemp("tokens")
    documents = [
        Document("train", domain, [first + i] * (3 + i % 17), 1)
        for domain, first in (("web", 0), ("code", 1000))
        for i in range(DOCUMENTS)
    ]
    write_shards(folder, documents, vocab_size=4001, eos_id=EOS)
    return Shards(folder)


def source(shards: Shards, **changes) -> PhaseSource:
    settings = {
        "weights": {"web": 2.0, "code": 1.0}, "steps": 6, "batch_rows": 4, "context": 16, "seed": 1, "cursor": {},
    }  # fmt: skip
    return PhaseSource(shards, **{**settings, **changes})


def equal(a: Batch, b: Batch) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in vars(a))


def rows(phase: PhaseSource, steps: int) -> torch.Tensor:
    return torch.cat([phase.batch(step).targets_BT for step in range(steps)])


def seen(phase: PhaseSource, steps: int) -> Counter[int]:
    """Targets by document token."""
    found = rows(phase, steps).flatten().tolist()
    return Counter(token for token in found if token not in (IGNORE, EOS))


def test_a_batch_depends_on_its_step_alone(shards: Shards) -> None:
    first, second = source(shards), source(shards)
    ahead = [first.batch(step) for step in range(6)]
    assert all(equal(second.batch(step), ahead[step]) for step in (5, 0, 3, 3, 1))
    assert not equal(ahead[0], ahead[1])
    assert not equal(source(shards, seed=2).batch(0), ahead[0])
    with pytest.raises(IndexError, match="beyond the 6 steps"):
        first.batch(6)


def test_the_order_of_rows_does_not_depend_on_the_batch_size(shards: Shards) -> None:
    assert torch.equal(rows(source(shards), 6), rows(source(shards, steps=12, batch_rows=2), 12))


def test_no_document_comes_twice_before_all_have_come(shards: Shards) -> None:
    cursor: dict[str, int] = {}
    taken: list[set[int]] = []
    while cursor.get("web", 0) < DOCUMENTS:
        phase = source(shards, weights={"web": 1.0}, steps=2, cursor=cursor)
        cursor, documents = phase.cursor, set(seen(phase, 2))
        taken.append(documents)
    for number, documents in enumerate(taken[:-1]):
        assert not documents & set().union(*taken[:number])
    whole = source(shards, weights={"web": 1.0}, steps=60)
    assert all(count <= (3 + token % 17) * whole.figures()["mixture/epochs/web"] + 20
               for token, count in seen(whole, 60).items())  # fmt: skip
    assert set(seen(whole, 60)) == set(range(DOCUMENTS))


def test_accounting_equals_what_the_batches_hold(shards: Shards) -> None:
    phase = source(shards)
    figures = phase.figures()
    targets = rows(phase, 6)
    of_code = targets.ge(1000) & targets.lt(EOS)
    code_rows = of_code.any(dim=1)
    assert int(code_rows.sum()) == 8  # a third of 24 rows
    assert figures["mixture/tokens/code"] == int((targets[code_rows] != IGNORE).sum())
    assert figures["packing/padding_share"] == pytest.approx(float((targets == IGNORE).float().mean()))
    assert figures["packing/padding_share"] < 0.05
    assert figures["mixture/epochs/web"] == phase.cursor["web"] / DOCUMENTS


def test_shares_by_position_equal_what_the_batches_hold(tmp_path: Path) -> None:
    documents = [Document("train", "web", [1] * length, 1) for length in (20, 40, 90, 200) * 5]
    write_shards(tmp_path, documents, vocab_size=4, eos_id=3)
    phase = source(Shards(tmp_path), weights={"web": 1.0}, context=128, steps=3)
    batches = [phase.batch(step) for step in range(3)]
    positions = torch.cat([batch.positions_BT[batch.targets_BT != IGNORE] for batch in batches])
    for low, high in ((0, 32), (32, 64), (64, 128)):
        share = float(((positions >= low) & (positions < high)).double().mean())
        assert 0 < phase.figures()[f"packing/position_share/{low}-{high}"] == pytest.approx(share)


def test_an_unknown_domain_is_named(shards: Shards) -> None:
    with pytest.raises(StorageError, match="no domain math; there are: code, web"):
        source(shards, weights={"math": 1.0})


def test_a_process_reads_its_rows_only(shards: Shards) -> None:
    phase = source(shards)
    whole = phase.batch(2)
    parts = [phase.batch(2, range(start, start + 2)) for start in (0, 2)]
    for name, tensor in vars(whole).items():
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), tensor)


def test_samples_name_the_documents_of_a_batch(shards: Shards) -> None:
    phase = source(shards)
    for step in range(3):
        tokens = {int(token) for token in phase.batch(step).targets_BT.unique()} - {IGNORE, EOS}
        named = phase.samples(step)
        numbers = {int(name.split("/")[1]) + (1000 if name.startswith("code") else 0) for name in named}
        assert tokens <= numbers and len(named) == len(set(named))
