"""The mixture: exact over the whole, close at any point, long documents as many as asked, faults named."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from k2core.data.mixture.pool import ALL, LONG, ORDINARY, Pool, Span, lower_quantiles, read_pool
from k2core.data.mixture.selection import EVERYTHING, Select
from k2core.data.mixture.shares import Bucket, BucketDeal, Deal, row_weights
from k2core.data.rows import spans
from k2core.data.rows.shards import TokenizedDocument, TokenShards, write_shards
from k2core.storage import StorageError

WEIGHTS = {"web": 0.3, "code": 0.3, "math": 0.15, "knowledge": 0.25}


def test_shares_are_exact() -> None:
    assert Counter(Deal(WEIGHTS).next(200)) == {"web": 60, "code": 60, "math": 30, "knowledge": 50}
    assert Deal(WEIGHTS).next(50) == Deal({name: 10 * w for name, w in WEIGHTS.items()}).next(200)[:50]


def test_shares_hold_at_any_point() -> None:
    rows = Deal(WEIGHTS).next(300)
    for end in range(1, 300):
        counts = Counter(rows[:end])
        for name, weight in WEIGHTS.items():
            assert -len(WEIGHTS) < counts[name] - weight * end <= 1


def test_no_weight_means_never_and_nonsense_is_refused() -> None:
    assert set(Deal({"web": 1.0, "code": 0.0}).next(20)) == {"web"}
    for weights in ({"web": 0.0}, {"web": -1.0, "code": 2.0}, {}):
        with pytest.raises(ValueError, match="must not be negative"):
            Deal(weights)


def pool(long: int, ordinary: int) -> Pool:
    """`long` tokens in long documents, `ordinary` in others."""
    lengths = np.array([n for n in (long, ordinary) if n])
    long_D = np.array([True, False])[[n > 0 for n in (long, ordinary)]]
    ones = np.ones(len(lengths))
    span = Span(lengths.cumsum(), lengths, ones, ones, {ALL: ones > 0, LONG: long_D, ORDINARY: ~long_D})
    return Pool(len(lengths), lambda _: span)


SIZES = st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)).filter(any)


@given(pools=st.lists(st.tuples(SIZES, st.floats(0.01, 10)), min_size=1, max_size=5), asked=st.floats(0.01, 0.95))
def test_the_long_share_is_kept_and_the_mixture_too(pools: list, asked: float) -> None:
    made = {str(i): pool(*sizes) for i, (sizes, _) in enumerate(pools)}
    weights = {str(i): weight for i, (_, weight) in enumerate(pools)}
    total = sum(weights.values())
    least = sum(weights[name] for name in made if made[name].long_share == 1) / total
    most = sum(weights[name] for name in made if made[name].long_share > 0) / total
    assume(least + 1e-6 < asked < most - 1e-6)
    select = Select(min_quality_quantile=0, long_share=asked, long_tokens=1)
    buckets = row_weights(made, weights, select)
    for name, weight in weights.items():
        assert sum(w for bucket, w in buckets.items() if bucket.domain == name) == pytest.approx(weight)
    assert all(made[bucket.domain].admitted(bucket.part) for bucket in buckets), "no bucket is empty"
    rows = BucketDeal(buckets).next(200)
    assert sum(bucket.part == LONG for bucket in rows) == pytest.approx(200 * asked, abs=1)
    # One factor for all domains, or the whole of the domain.
    factors = {
        name: buckets.get(Bucket(name, LONG), 0.0) / (weight * made[name].long_share)
        for name, weight in weights.items()
        if 1e-3 < made[name].long_share < 1 and Bucket(name, ORDINARY) in buckets
    }
    assert not factors or max(factors.values()) == pytest.approx(min(factors.values()), rel=1e-3)


def test_long_documents_that_are_not_there_are_named() -> None:
    select = Select(min_quality_quantile=0, long_share=0.4, long_tokens=512)
    with pytest.raises(StorageError, match=r"no domain has documents of at least 512 tokens, so between 0% and 0%"):
        row_weights({"web": pool(0, 9)}, {"web": 1.0}, select)
    with pytest.raises(StorageError, match=r"code has documents of at least 512 .* between 0% and 25% .* long_share"):
        row_weights({"web": pool(0, 9), "code": pool(5, 5)}, {"web": 3.0, "code": 1.0}, select)
    with pytest.raises(StorageError, match="between 50% and 50%"):
        row_weights({"web": pool(0, 9), "code": pool(5, 0)}, {"web": 1.0, "code": 1.0}, select)
    assert row_weights({}, {"web": 3.0, "code": 0.0}, EVERYTHING) == {Bucket("web", ALL): 3.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"long_share": 0.4}, "go together"), ({"long_tokens": 9}, "go together"),
        ({"min_quality_quantile": 1.0}, "less than 1"), ({"long_share": 1.0, "long_tokens": 9}, "less than 1"),
    ],
)  # fmt: skip
def test_selections_that_cannot_work_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Select(**{**EVERYTHING.model_dump(), **changes})


@given(quality=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40), quantile=st.floats(0, 0.99))
def test_the_best_documents_of_a_domain_are_taken(
    tmp_path_factory: pytest.TempPathFactory, quality: list[float], quantile: float
) -> None:
    folder = tmp_path_factory.mktemp("tokens")
    write_shards(folder, [TokenizedDocument("train", "web", [1], 1, q) for q in quality], vocab_size=4, eos_id=3)
    select = EVERYTHING.model_copy(update={"min_quality_quantile": quantile})
    taken = read_pool(TokenShards(folder), "web", select).span(0).parts[ALL]
    assert sum(taken) >= (1 - quantile) * len(quality) and taken[int(np.argmax(quality))]
    left = [q for q, there in zip(quality, taken, strict=True) if not there]
    assert len(left) <= quantile * len(quality)
    assert not left or max(left) < min(q for q, there in zip(quality, taken, strict=True) if there)


@given(
    values=st.lists(st.floats(-9, 9, width=32) | st.sampled_from([0.0, 0.5]), min_size=1, max_size=50),
    quantiles=st.lists(st.floats(0, 1), min_size=1, max_size=4),
)
def test_quantiles_in_constant_memory_are_numpys(values: list[float], quantiles: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans, "SPAN", 7)
        found = lower_quantiles(np.array(values, np.float32), quantiles)
    assert found == np.quantile(np.array(values, np.float64), quantiles, method="lower").tolist()
