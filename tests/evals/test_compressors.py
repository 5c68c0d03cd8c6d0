"""The yardsticks against text whose compressed size is known, and against a change that must not matter."""

from __future__ import annotations

import hashlib
from random import Random

import pytest

from k2core.evals.compressors import END, xz, xz_after_training, yardsticks, zstd_dictionary
from k2core.storage import StorageError

WORDS = [hashlib.sha256(str(number).encode()).hexdigest()[:7] for number in range(400)]


def texts(count: int, seed: int) -> list[str]:
    random = Random(seed)
    return [" ".join(random.choices(WORDS, k=40)) for _ in range(count)]


def test_noise_cannot_be_compressed_and_repetition_can() -> None:
    noise = [Random(0).randbytes(20_000)]
    assert 20_000 <= xz(noise, ()) < 20_200
    assert xz([b"a" * 20_000], ()) < 200
    assert xz_after_training(noise, [b"x" * 99, *noise]) < 300, "seen before"
    assert xz_after_training(noise, [b"x" * 99]) > 19_900


def test_documents_end_in_a_stream() -> None:
    assert xz([b"ab", b"c"], ()) == xz([b"ab" + END + b"c"], ()) != xz([b"abc"], ())


def test_what_was_seen_in_training_helps() -> None:
    training, heldout = {"web": texts(500, 0)}, {"web": texts(20, 1)}
    figures = yardsticks(heldout, training, 10**6)
    assert figures["yardstick/zstd_dictionary"] < figures["yardstick/xz"]
    assert figures["yardstick/xz_after_training"] < figures["yardstick/xz"]
    entropy = 8.644 / 8  # log2(400) bits per word of 7 letters and a space
    assert all(entropy < value < 8 for value in figures.values())


def test_a_document_is_compressed_alone_by_zstd_and_with_the_others_by_xz() -> None:
    samples = [text.encode() for text in texts(300, 0)]
    one = texts(1, 5)[0].encode()
    assert zstd_dictionary([one] * 3, samples) == 3 * zstd_dictionary([one], samples)
    assert xz([one] * 3, ()) < 1.3 * xz([one], ())


def test_all_domains_are_all_bits_over_all_bytes() -> None:
    heldout = {"web": texts(30, 1), "math": ["1 + 1 = 2. " * 9] * 4}
    training = {"web": texts(300, 0), "math": [f"{n} + 1 = {n + 1}. " * 9 for n in range(60)]}
    figures = yardsticks(heldout, training, 10**5)
    size = {domain: sum(len(text.encode()) for text in heldout[domain]) for domain in heldout}
    for name in ("xz", "zstd_dictionary", "xz_after_training"):
        bits = sum(figures[f"yardstick/{name}/{domain}"] * size[domain] for domain in heldout)
        assert figures[f"yardstick/{name}"] == pytest.approx(bits / sum(size.values()))
    assert figures == yardsticks(heldout, training, 10**5)
    assert len(figures) == 9


def test_only_the_first_training_text_is_used() -> None:
    training, heldout = texts(300, 0), {"web": texts(9, 1)}
    limit = sum(map(len, training[:200]))
    cut = yardsticks(heldout, {"web": training[:200]}, 10**9)
    assert yardsticks(heldout, {"web": training}, limit) == cut
    assert yardsticks(heldout, {"web": training}, 10**9) != cut


@pytest.mark.parametrize("training", [{}, {"web": ["word"] * 3}, {"web": ["a"] * 300}])
def test_too_little_training_text_is_said(training: dict[str, list[str]]) -> None:
    with pytest.raises(StorageError, match=r"train a zstd dictionary.*ingest more"):
        yardsticks({"web": texts(3, 1)}, training, 10**6)
