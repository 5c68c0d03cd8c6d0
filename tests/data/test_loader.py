"""The loader: a pure function of the step; no document twice in a pass, across phases; rates, selection, accounting."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from k2core.data.mixture.pool import ALL, read_pool
from k2core.data.mixture.selection import EVERYTHING, Select
from k2core.data.rows import loader, spans
from k2core.data.rows.batch import IGNORE, Batch
from k2core.data.rows.loader import PhaseSource
from k2core.data.rows.shards import TokenizedDocument, TokenShards, write_shards
from k2core.data.rows.spans import hash_fractions
from k2core.storage import StorageError

EOS = 4000
DOCUMENTS = 60


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    """TokenizedDocument i of `web` consists of tokens i alone, of `code` of tokens 1000 + i: its tokens name it."""
    folder = tmp_path_factory.mktemp("tokens")
    documents = [
        TokenizedDocument("train", domain, [first + i] * (3 + i % 17), 1)
        for domain, first in (("web", 0), ("code", 1000))
        for i in range(DOCUMENTS)
    ]
    write_shards(folder, documents, vocab_size=4001, eos_id=EOS)
    return TokenShards(folder)


def source(shards: TokenShards, **changes) -> PhaseSource:
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


def test_a_batch_depends_on_its_step_alone(shards: TokenShards) -> None:
    first, second = source(shards), source(shards)
    ahead = [first.batch(step) for step in range(6)]
    assert all(equal(second.batch(step), ahead[step]) for step in (5, 0, 3, 3, 1))
    assert not equal(ahead[0], ahead[1])
    assert not equal(source(shards, seed=2).batch(0), ahead[0])
    with pytest.raises(IndexError, match="beyond the 6 steps"):
        first.batch(6)


def test_the_order_of_rows_does_not_depend_on_the_batch_size(shards: TokenShards) -> None:
    assert torch.equal(rows(source(shards), 6), rows(source(shards, steps=12, batch_rows=2), 12))


def test_no_document_comes_twice_before_all_have_come(shards: TokenShards) -> None:
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


def test_accounting_equals_what_the_batches_hold(shards: TokenShards) -> None:
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
    documents = [TokenizedDocument("train", "web", [1] * length, 1) for length in (20, 40, 90, 200) * 5]
    write_shards(tmp_path, documents, vocab_size=4, eos_id=3)
    phase = source(TokenShards(tmp_path), weights={"web": 1.0}, context=128, steps=3)
    batches = [phase.batch(step) for step in range(3)]
    positions = torch.cat([batch.positions_BT[batch.targets_BT != IGNORE] for batch in batches])
    for low, high in ((0, 32), (32, 64), (64, 128)):
        share = float(((positions >= low) & (positions < high)).double().mean())
        assert 0 < phase.figures()[f"packing/position_share/{low}-{high}"] == pytest.approx(share)


def test_an_unknown_domain_is_named(shards: TokenShards) -> None:
    with pytest.raises(StorageError, match="no domain math; there are: code, web"):
        source(shards, weights={"math": 1.0})


def test_a_process_reads_its_rows_only(shards: TokenShards) -> None:
    phase = source(shards)
    whole = phase.batch(2)
    parts = [phase.batch(2, range(start, start + 2)) for start in (0, 2)]
    for name, tensor in vars(whole).items():
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), tensor)


def test_samples_name_the_documents_of_a_batch(shards: TokenShards) -> None:
    phase = source(shards)
    for step in range(3):
        tokens = {int(token) for token in phase.batch(step).targets_BT.unique()} - {IGNORE, EOS}
        named = phase.samples(step)
        numbers = {int(name.split("/")[1]) + (1000 if name.startswith("code") else 0) for name in named}
        assert tokens <= numbers and len(named) == len(set(named))


def test_with_all_rates_one_the_order_is_what_it_was_before_rates(shards: TokenShards) -> None:
    """The digest is that of the loader which knew neither rates nor selections."""
    cursor: dict[str, int] = {}
    digest = hashlib.sha256()
    for steps, weights in ((6, {"web": 2.0, "code": 1.0}), (40, {"web": 0.3, "code": 0.7})):
        phase = source(shards, weights=weights, steps=steps, cursor=cursor)
        cursor = phase.cursor
        for step in range(steps):
            for tensor in vars(phase.batch(step)).values():
                digest.update(tensor.numpy().tobytes())
    assert digest.hexdigest().startswith("26aecf1ac1c9fedd") and cursor == {"code": 171, "web": 91}


def write(folder: Path, lengths: list[int], rates: list[float], quality: list[float] | None = None) -> TokenShards:
    """TokenizedDocument i of `web` consists of tokens i alone."""
    documents = [
        TokenizedDocument("train", "web", [i] * (length - 1), 1, score, rate)
        for i, (length, rate, score) in enumerate(zip(lengths, rates, quality or [1.0] * len(rates), strict=True))
    ]
    write_shards(folder, documents, vocab_size=4001, eos_id=EOS)
    return TokenShards(folder)


def stream(shards: TokenShards, end: int, start: int = 0, seed: int = 1) -> list[tuple[int, int]]:
    """(pass, document) of the stream of `web`, positions `start` to `end`."""
    phase = source(shards, weights={"web": 1.0}, steps=1, batch_rows=1, seed=seed)
    pool = read_pool(shards, "web", EVERYTHING)
    found: list[tuple[int, int]] = []
    for position_D, within_D, span in phase._stream("web", pool, start):
        inside_D = position_D < end
        number_D = np.searchsorted(shards.document_ends("train", "web"), span.ends_D[within_D[inside_D]])
        found += zip((position_D[inside_D] // pool.documents).tolist(), number_D.tolist(), strict=True)
        if not inside_D.all():
            return found
    raise AssertionError("the stream has no end")


def test_windows_and_spans_keep_what_a_phase_promises(monkeypatch: pytest.MonkeyPatch, shards: TokenShards) -> None:
    """Ten windows over spans of 25 documents: rows by the mixture, nothing twice in a pass, each step by itself."""
    monkeypatch.setattr(loader, "WINDOW", 24)
    monkeypatch.setattr(spans, "SPAN", 25)
    monkeypatch.setattr(loader, "shuffled", spans.shuffled.__wrapped__)  # its cache is of another span
    phase, resumed, second = (source(shards, steps=60) for _ in range(3))
    found = rows(phase, 60)
    assert torch.equal(resumed.batch(51).targets_BT, found[51 * 4 : 52 * 4]), "a run that goes on in a late window"
    assert resumed.cursor == phase.cursor == second.cursor and resumed.figures() == phase.figures() == second.figures()
    assert torch.equal(rows(source(shards, steps=120, batch_rows=2), 120), found), "windows know no batches"
    figures = phase.figures()
    assert figures["packing/padding_share"] < 0.1
    assert figures["packing/padding_share"] == pytest.approx(float((found == IGNORE).float().mean()))
    of_code = (found.ge(1000) & found.lt(EOS)).any(dim=1)
    assert all(abs(int(of_code[: row + 1].sum()) - (row + 1) / 3) <= 1 for row in range(240))
    walked = stream(shards, 3 * DOCUMENTS)
    assert Counter(walked) == Counter((epoch, number) for epoch in range(3) for number in range(DOCUMENTS))
    assert [number // 25 for _, number in walked[:DOCUMENTS]] == sorted(n // 25 for n in range(DOCUMENTS))


def test_a_window_of_the_whole_phase_is_one_plan(monkeypatch: pytest.MonkeyPatch, shards: TokenShards) -> None:
    """The first window of a long phase has what a phase of that length has."""
    monkeypatch.setattr(loader, "WINDOW", 24)
    assert torch.equal(rows(source(shards, steps=60), 6), rows(source(shards, steps=6), 6))


@given(rates=st.lists(st.floats(0.0625, 1, width=32), min_size=2, max_size=12), cut=st.floats(0, 1))
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=40, deadline=None)
def test_the_stream_follows_the_rates(tmp_path_factory: pytest.TempPathFactory, rates: list[float], cut: float) -> None:
    shards = write(tmp_path_factory.mktemp("rates"), [20] * len(rates), rates)
    passes, documents = 60, len(rates)
    found = stream(shards, passes * documents)
    assert len(set(found)) == len(found), "never twice in a pass"
    counts = Counter(number for _, number in found)
    for number, rate in enumerate(rates):
        assert abs(counts[number] - rate * passes) <= 1, "the frequency is the rate, to one document"
    start = int(cut * passes * documents)
    rest = stream(shards, passes * documents, start)
    assert rest == found[len(found) - len(rest) :], "it goes on alike from any place"


def test_the_hash_is_even_and_depends_on_seed_and_number_alone() -> None:
    numbers = hash_fractions("1/rate/web", 20_000)
    assert np.array_equal(hash_fractions("1/rate/web", 10), numbers[:10])
    assert numbers.min() >= 0 and numbers.max() < 1 and not np.array_equal(numbers[:9], hash_fractions("2", 9))
    assert np.histogram(numbers, bins=10, range=(0, 1))[0] == pytest.approx(2000, rel=0.1)
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.03


SELECTIONS = st.builds(
    Select, min_quality_quantile=st.sampled_from([0.0, 0.5, 0.8]), long_share=st.just(0.0), long_tokens=st.just(0)
) | st.builds(
    Select, min_quality_quantile=st.sampled_from([0.0, 0.5]), long_share=st.sampled_from([0.2, 0.4, 0.7]),
    long_tokens=st.just(60),
)  # fmt: skip


@given(selections=st.lists(SELECTIONS, min_size=1, max_size=4), seed=st.integers(0, 5))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_phases_with_selections_repeat_nothing_within_a_pass(
    selected: TokenShards, selections: list[Select], seed: int
) -> None:
    cursor: dict[str, int] = {}
    taken: set[tuple[int, int]] = set()
    for select in selections:
        before = cursor.get("web", 0)
        phase = source(selected, weights={"web": 1.0}, steps=8, context=32, seed=seed, cursor=cursor, select=select)
        again = source(selected, weights={"web": 1.0}, steps=8, context=32, seed=seed, cursor=cursor, select=select)
        cursor = phase.cursor
        assert again.cursor == cursor and all(equal(phase.batch(s), again.batch(s)) for s in range(8))
        documents = set(seen(phase, 8))
        walked = stream(selected, cursor["web"], before, seed)
        assert documents <= {number for _, number in walked}, "what is trained on lies between the two cursors"
        if len({number for _, number in walked}) == len(walked):  # so that it is clear in which pass each was taken
            found = {place for place in walked if place[1] in documents}
            assert not found & taken
            taken |= found
        pool = read_pool(selected, "web", select)
        assert all(pool.takes(ALL, number) for number in documents)
        if select.long_share:
            figures = phase.figures()
            assert figures["mixture/long_share"] == pytest.approx(select.long_share, abs=0.5 / 32 + 0.02)
            targets = rows(phase, 8)
            lengths = np.append(pool.span(0).lengths_D, 0)
            of_long = [bool(lengths[int(row[0])] >= 60) for row in targets]
            assert sum(of_long) / len(of_long) == pytest.approx(select.long_share, abs=0.5 / 32 + 1e-6)


@pytest.fixture(scope="module")
def selected(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    """200 documents, a third of them of 60 tokens and more."""
    random = np.random.default_rng(3)
    lengths = np.where(random.random(200) < 0.33, random.integers(60, 200, 200), random.integers(5, 60, 200))
    return write(
        tmp_path_factory.mktemp("selected"), lengths.tolist(), random.uniform(0.3, 1, 200).tolist(),
        random.random(200).tolist(),
    )  # fmt: skip


def test_long_documents_that_are_not_there_end_the_phase_before_it_starts(shards: TokenShards) -> None:
    select = Select(min_quality_quantile=0, long_share=0.4, long_tokens=512)
    with pytest.raises(StorageError, match="no domain has documents of at least 512 tokens"):
        source(shards, select=select)
