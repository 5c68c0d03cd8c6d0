"""Deduplication: planted duplicates are found, different documents stay, and what stays is decided by content."""

from __future__ import annotations

import hashlib
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from k2core.corpus.duplicates import shingles
from k2core.corpus.duplicates.clusters import Duplicate, deduplicate
from k2core.corpus.duplicates.dedup import MinhashConfig, attributes
from k2core.corpus.duplicates.shingles import ngram_hashes, word_hashes

CONFIG = MinhashConfig(ngram_words=5, buckets=14, hashes_per_bucket=8, seed=1)
SEED_2 = CONFIG.model_copy(update={"seed": 2})
VOCABULARY = [f"w{i}" for i in range(3000)]


def text_of(seed: int, length: int = 200) -> list[str]:
    return random.Random(seed).choices(VOCABULARY, k=length)


def edited(words: list[str], edits: int, seed: int) -> list[str]:
    """`edits` words replaced, evenly apart: 5 shingles of 196 change with each."""
    copy, rng = list(words), random.Random(seed)
    for edit in range(edits):
        copy[(edit * len(words)) // edits + 3] = rng.choice(VOCABULARY) + "x"
    return copy


def fingerprint(name: str, words: list[str]) -> dict[str, Any]:
    return {"id": name, **attributes(" ".join(words), CONFIG)}


def find_duplicates(ranked: list[dict[str, Any]], min_similarity: float) -> list[Duplicate]:
    """The duplicates among fingerprints, of which the better comes first."""
    rows = [{**row, "quality": -place} for place, row in enumerate(ranked)]
    with tempfile.TemporaryDirectory() as folder:
        return list(deduplicate(rows, min_similarity, Path(folder)).values())


def similarity(left: dict[str, Any], right: dict[str, Any]) -> float:
    own, other = (np.frombuffer(b"".join(row["minhash"]), "<u4") for row in (left, right))
    return float((own == other).mean())


def test_planted_near_duplicates_are_found() -> None:
    """2 edits of 200 words: Jaccard (196 - 10) / (196 + 10) = 0.90, found by 14 × 8 bands with probability 0.9995."""
    originals = [text_of(seed) for seed in range(100)]
    documents = [fingerprint(f"a{i}", words) for i, words in enumerate(originals)]
    documents += [fingerprint(f"b{i}", edited(words, 2, i)) for i, words in enumerate(originals)]
    found = find_duplicates(documents, min_similarity=0.7)
    assert {(item.id, item.of) for item in found} <= {(f"b{i}", f"a{i}") for i in range(100)}
    assert len(found) >= 98 and not any(item.exact for item in found)
    assert all(item.similarity >= 0.7 for item in found)


def test_the_s_curve_is_datatroves() -> None:
    """At Jaccard 0.5 the chance of a shared band is 1 - (1 - 0.5^8)^14 = 0.05: different texts stay."""
    documents = []
    for seed in range(60):
        words = text_of(seed)
        documents += [fingerprint(f"a{seed}", words), fingerprint(f"b{seed}", edited(words, 13, seed))]
    assert len(find_duplicates(documents, min_similarity=0.0)) <= 12
    assert find_duplicates(documents, min_similarity=0.7) == []


def test_estimated_similarity_is_near_the_true_one() -> None:
    pairs = [(text_of(seed), edited(text_of(seed), 4, seed)) for seed in range(30)]
    estimates = [similarity(fingerprint("a", a), fingerprint("b", b)) for a, b in pairs]
    assert sum(estimates) / 30 == pytest.approx((196 - 20) / (196 + 20), abs=0.04)


def test_exact_duplicates_differ_in_white_space_alone() -> None:
    words = text_of(1)
    a, b = attributes(" ".join(words), CONFIG), attributes("\n".join(words) + "\n", CONFIG)
    assert a["digest"] == b["digest"] != attributes(" ".join(words[1:]), CONFIG)["digest"]
    (found,) = find_duplicates([{"id": "a", **a}, {"id": "b", **b}], 0.7)
    assert found.exact and (found.id, found.of) == ("b", "a")


def test_numbers_tell_problems_apart() -> None:
    texts = [
        f"Problem: what is {a} + {a + 7} ?\n{a} + {a + 7} = {2 * a + 7}\nAnswer: {2 * a + 7}" for a in range(20, 60)
    ]
    tags = [attributes(text, CONFIG) for text in texts]
    documents = [{"id": str(i), **tag} for i, tag in enumerate(tags)]
    assert find_duplicates(documents, 0.7) == []


def test_signs_tell_problems_apart() -> None:
    up, down = "Problem: what comes next? 3, 6, 12, 24, 48, 96", "Problem: what comes next? -3, -6, -12, -24, -48, -96"
    assert attributes(up, CONFIG)["minhash"] != attributes(down, CONFIG)["minhash"]
    ranges = [attributes(f"the years from {years} were good ones for the town", CONFIG) for years in ("1-5", "1 5")]
    assert ranges[0]["minhash"] == ranges[1]["minhash"]


def test_short_texts_are_compared_exactly() -> None:
    a, b = attributes("one two", CONFIG), attributes("one three", CONFIG)
    assert a["minhash"] == [] == b["minhash"]
    assert find_duplicates([{"id": "a", **a}, {"id": "b", **b}], 0.0) == []


def test_no_chains_and_the_better_one_stays(tmp_path: Path) -> None:
    """B resembles A and C; A and C do not resemble each other. Only B goes, if A is the best."""
    a = text_of(5)
    b, c = edited(a, 4, 1), edited(edited(a, 4, 1), 9, 2)
    rows = [
        {"id": name, "quality": quality, **attributes(" ".join(words), CONFIG)}
        for name, quality, words in (("c", 0.5, c), ("b", 0.6, b), ("a", 0.9, a))
    ]
    gone = deduplicate(rows, 0.65, tmp_path / "one")
    assert set(gone) == {"b"} and (gone["b"].exact, gone["b"].of) == (False, "a")
    assert deduplicate(list(reversed(rows)), 0.65, tmp_path / "two") == gone


def test_of_equals_the_first_id_stays(tmp_path: Path) -> None:
    tags = attributes(" ".join(text_of(8)), CONFIG)
    rows = [{"id": name, "quality": 0.5, **tags} for name in ("z", "m", "a")]
    assert set(deduplicate(rows, 0.7, tmp_path)) == {"z", "m"}


def test_signatures_are_the_same_everywhere() -> None:
    """Golden: a change of word splitting, hashes or rensa's algorithm must be noticed, since signatures are stored."""
    signature = attributes("The quick brown fox jumps over the lazy dog, and 12 cafés open.", CONFIG)["minhash"]
    assert [len(bucket) for bucket in signature] == [32] * 14
    assert hashlib.sha256(b"".join(signature)).hexdigest().startswith("edb52cb91b56de2f")
    other_seed = attributes("The quick brown fox jumps over the lazy dog, and 12 cafés open.", SEED_2)["minhash"]
    assert set(signature).isdisjoint(other_seed)


def test_signatures_do_not_see_case_punctuation_or_diacritics() -> None:
    plain = attributes("the cafe on the corner opens at nine every day", CONFIG)
    assert attributes("The café, on the corner, opens -- at nine every day!", CONFIG)["minhash"] == plain["minhash"]
    assert attributes("the cafe on the corner opens at ten every day", CONFIG)["minhash"] != plain["minhash"]


def test_ngrams_are_equal_where_their_words_are() -> None:
    words = [random.Random(7).choice("abcd") for _ in range(3000)]
    for n in (1, 5, 50):
        values = ngram_hashes(word_hashes(words), n).tolist()
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        assert len(values) == len(grams) and len(set(values)) == len(set(grams)) == len(
            set(zip(values, grams, strict=True))
        )
    assert len(ngram_hashes(word_hashes(words[:4]), 5)) == 0 == len(ngram_hashes(word_hashes([]), 5))


def test_a_full_memory_of_words_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = word_hashes(VOCABULARY)
    shingles._HASHES.clear()
    monkeypatch.setattr(shingles, "CACHED_WORDS", 10)
    assert (word_hashes(VOCABULARY) == before).all() and len(shingles._HASHES) <= 10
