"""Duplicates and repeated paragraphs through files: equal to one pass in memory, for any number of shards."""

from __future__ import annotations

import hashlib
import tempfile
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_memory import duplicates, ranked, repeats

from k2core.corpus.duplicates import clusters, fingerprints, repeated
from k2core.corpus.duplicates.clusters import KEPT, find_duplicates, similarity_of
from k2core.corpus.duplicates.fingerprints import Fingerprints
from k2core.corpus.duplicates.paragraphs import ParagraphConfig, without
from k2core.corpus.duplicates.repeated import find_repeats, read_cuts

Row = dict[str, Any]
BANDS, WIDTH = 4, 3


def in_shards(rows: list[Row], count: int) -> list[list[Row]]:
    """`rows` in `count` parts, in order; some may be empty."""
    cuts = [len(rows) * part // count for part in range(count + 1)]
    return [rows[start:end] for start, end in pairwise(cuts)]


def written(rows: list[Row], count: int, folder: Path) -> Fingerprints:
    shards = [folder / str(number) for number in range(count)]
    for shard, part in zip(shards, in_shards(rows, count), strict=True):
        fingerprints.spill(shard, part)
    return Fingerprints(shards)


def through_files(rows: list[Row], min_similarity: float, count: int) -> dict[str, tuple[str, float, bool]]:
    with tempfile.TemporaryDirectory() as name:
        prints = written(rows, count, Path(name))
        find_duplicates(prints, Path(name), min_similarity)
        verdicts = np.load(Path(name) / "verdicts.npy").tolist()
        return {
            row["id"]: (rows[of]["id"], similarity_of(equal, prints), equal == clusters.EXACT)
            for row, (of, equal) in zip(rows, verdicts, strict=True)
            if of != KEPT
        }


def fingerprint(number: int, quality: int, hashes: list[int], twin: bool) -> Row:
    """A fingerprint of few different hashes, so that bands and signatures meet often; none for an empty signature."""
    words = np.array(hashes, "<u4").reshape(BANDS, WIDTH) if hashes else np.empty((0, WIDTH), "<u4")
    name = f"{hashes}" if twin else f"{number}"
    digest = hashlib.sha256(name.encode()).hexdigest()
    # Ids do not rise with the documents' numbers.
    return {
        "id": f"s/{number * 7 % 101}-{number}", "quality": quality / 3, "digest": digest,
        "minhash": [band.tobytes() for band in words],
    }  # fmt: skip


@st.composite
def chains(draw: st.DrawFn) -> list[Row]:
    """Signatures that differ from an earlier one in a few places, with ties of quality and exact twins."""
    rows: list[Row] = []
    signatures: list[list[int]] = []
    for number in range(draw(st.integers(1, 30))):
        hashes = [draw(st.integers(0, 3)) for _ in range(BANDS * WIDTH)]
        if signatures and draw(st.booleans()):
            hashes = list(draw(st.sampled_from(signatures)))
            for _ in range(draw(st.integers(0, 3)) if hashes else 0):
                hashes[draw(st.integers(0, len(hashes) - 1))] = draw(st.integers(0, 3))
        elif draw(st.integers(0, 9)) == 0:
            hashes = []
        signatures.append(hashes)
        rows.append(fingerprint(number, draw(st.integers(0, 3)), hashes, draw(st.booleans())))
    return rows


@settings(max_examples=30, deadline=None)
@given(chains(), st.sampled_from([0.0, 0.5, 0.7, 0.9, 1.0]), st.sampled_from([1, 3, 8]))
def test_duplicates_are_those_of_one_pass_in_memory(rows: list[Row], min_similarity: float, count: int) -> None:
    assert through_files(rows, min_similarity, count) == duplicates(rows, min_similarity)


def test_many_documents_in_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a block keeps is known in the next one, also after its memory has been given back."""
    monkeypatch.setattr(clusters, "BLOCK", 64)
    random = np.random.default_rng(5)
    rows = []
    for number in range(600):
        hashes = random.integers(0, 4, BANDS * WIDTH).tolist()
        rows.append(fingerprint(number, int(random.integers(0, 4)), hashes, bool(random.integers(0, 2))))
    found = through_files(rows, 0.6, 3)
    assert found == duplicates(rows, 0.6) and 50 < len(found) < 550


def test_equal_keys_of_different_bands_are_no_duplicates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key is 64 bits of what it stands for: those that are equal by chance are held against the whole."""
    monkeypatch.setattr(
        fingerprints, "_band_keys", lambda signatures, bands: np.ones((len(signatures), bands), np.uint64)
    )
    rows = [fingerprint(number, 1, [number + 1] * BANDS * WIDTH, False) for number in range(4)]
    rows[3]["digest"] = rows[2]["digest"][:16] + rows[3]["digest"][16:]
    assert through_files(rows, 0.0, 1) == {}


def test_the_search_takes_forty_bytes_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy's arrays; what is mapped from files is not counted."""
    monkeypatch.setattr(clusters, "BLOCK", 256)
    few, many = (peak_of_search(count, tmp_path / str(count)) for count in (4_000, 16_000))
    assert 8 < (many - few) / 12_000 <= 40


def peak_of_search(count: int, folder: Path) -> int:
    """Bytes that the search takes beyond what was there before, for documents of which a quarter are duplicates."""
    hashes = np.random.default_rng(1).integers(0, 2**32, (count, BANDS * WIDTH), dtype=np.uint32)
    hashes[1::4] = hashes[::4]
    hashes[:, 0] = np.arange(count)  # equal in all bands but one
    rows = [fingerprint(place, place % 100, row.tolist(), False) for place, row in enumerate(hashes)]
    prints = written(rows, 4, folder)
    del rows, hashes
    pool = pa.default_memory_pool()
    before = pool.bytes_allocated()
    tracemalloc.start()
    find_duplicates(prints, folder, 0.7)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pool.bytes_allocated() == before
    assert (np.load(folder / "verdicts.npy")["of"] != KEPT).sum() == count // 4
    return peak


def texts_of(rows: list[Row], config: ParagraphConfig, count: int) -> dict[str, tuple[str, float, bool, str, str]]:
    """What `find_repeats` finds, in the words of `in_memory.repeats`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = [folder / str(number) for number in range(count)]
        starts = [0]
        for shard, part in zip(shards, in_shards(rows, count), strict=True):
            shard.mkdir()
            compared = [(place, row["text"]) for place, row in enumerate(part)]
            repeated.spill(shard, compared, config.min_characters)
            starts.append(starts[-1] + len(part))
        number_of = {row["id"]: number for number, row in enumerate(rows)}
        ranking = np.array([number_of[row["id"]] for row in ranked(rows)], np.int64)
        find_repeats(shards, starts, ranking, np.ones(len(rows), bool), config.max_share, folder)
        cuts = np.concatenate([read_cuts(folder, shard) for shard in range(count)])
        assert sorted(cuts["document"].tolist()) == cuts["document"].tolist()
    found = {}
    for number in dict.fromkeys(cuts["document"].tolist()):
        own = cuts[cuts["document"] == number]
        left = without(rows[number]["text"], own["place"].tolist())
        first = rows[int(own["of"][0])]["id"]
        found[rows[number]["id"]] = left.text, left.share, bool(own["goes"][0]), left.first, first
    return found


PARAGRAPHS = ["short", "", "  ", *(f"The paragraph of number {i} is long enough to count." for i in range(6))]
GAPS = ["\n\n", "\n \n", "\n\n\n\n"]


@st.composite
def pages(draw: st.DrawFn) -> list[Row]:
    rows = []
    for number in range(draw(st.integers(1, 15))):
        text = "Page.\n\n" if draw(st.booleans()) else ""
        for _ in range(draw(st.integers(1, 6))):
            paragraph = draw(st.sampled_from(PARAGRAPHS))
            text += paragraph.replace(" ", draw(st.sampled_from([" ", "  "]))) + draw(st.sampled_from(GAPS))
        rows.append({"id": f"s/{number * 7 % 31}-{number}", "quality": draw(st.integers(0, 3)) / 3, "text": text})
    return rows


@settings(max_examples=30, deadline=None)
@given(pages(), st.sampled_from([0.0, 0.3, 0.5, 0.99]), st.sampled_from([1, 3, 8]))
def test_repeated_paragraphs_are_those_of_one_pass_in_memory(rows: list[Row], max_share: float, count: int) -> None:
    config = ParagraphConfig(domains=["web"], min_characters=20, max_share=max_share)
    assert texts_of(rows, config, count) == repeats(rows, config)
