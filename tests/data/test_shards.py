"""Token shards: what is written is read, what is torn is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from k2core.data.rows.shards import TokenizedDocument, TokenShards, write_shards
from k2core.storage import StorageError

DOCUMENTS = [
    TokenizedDocument("train", "web", [1, 2, 3], 7),
    TokenizedDocument("train", "code", [4], 2),
    TokenizedDocument("train", "web", [], 0, quality=0.5, rate=0.25),
    TokenizedDocument("heldout", "web", [5, 6], 4),
]


def test_round_trip(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path / "tokens", DOCUMENTS, vocab_size=10, eos_id=9)
    assert manifest["train"]["web"] == {"tokens": 5, "bytes": 7, "documents": 2}
    shards = TokenShards(tmp_path / "tokens")
    assert shards.domains("train") == ["code", "web"] and shards.domains("heldout") == ["web"]
    assert shards.tokens("train", "web").tolist() == [1, 2, 3, 9, 9]
    assert shards.document_ends("train", "web").tolist() == [4, 5]
    assert shards.document_bytes("train", "web").tolist() == [7, 0]
    assert shards.document_quality("train", "web").tolist() == [1, 0.5]
    assert shards.document_rates("train", "web").tolist() == [1, 0.25]


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_535, "uint16"), (65_536, "uint32"), (163_840, "uint32")])
def test_ids_are_as_wide_as_the_vocabulary_asks(tmp_path: Path, vocab_size: int, dtype: str) -> None:
    documents = [TokenizedDocument("train", "web", [vocab_size - 1], 1)]
    assert write_shards(tmp_path, documents, vocab_size=vocab_size, eos_id=0)["dtype"] == dtype
    assert TokenShards(tmp_path).tokens("train", "web").tolist() == [vocab_size - 1, 0]


@pytest.mark.parametrize("tokens", [[10], [-1], [9]])
def test_tokens_that_would_mislead_are_refused(tmp_path: Path, tokens: list[int]) -> None:
    with pytest.raises(ValueError, match="web document has tokens outside"):
        write_shards(tmp_path, [TokenizedDocument("train", "web", tokens, 1)], vocab_size=10, eos_id=9)


@pytest.mark.parametrize("changes", [{"rate": 0.0}, {"rate": 1.1}, {"rate": float("nan")}, {"quality": float("inf")}])
def test_rates_and_quality_that_are_none_are_refused(tmp_path: Path, changes: dict) -> None:
    with pytest.raises(ValueError, match="a web document has rate"):
        write_shards(tmp_path, [TokenizedDocument("train", "web", [1], 1, **changes)], vocab_size=10, eos_id=9)


def test_faults_name_the_file_and_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="run the stage tokenize"):
        TokenShards(tmp_path)
    write_shards(tmp_path, DOCUMENTS, vocab_size=10, eos_id=9)
    shards = TokenShards(tmp_path)
    with pytest.raises(StorageError, match="no domain math; there are: code, web"):
        shards.tokens("train", "math")
    file = tmp_path / "train" / "web.bin"
    file.write_bytes(file.read_bytes()[:-2])
    with pytest.raises(StorageError, match="8 bytes, the manifest says 5"):
        shards.tokens("train", "web")
    file.unlink()
    with pytest.raises(StorageError, match=r"web\.bin: missing"):
        shards.tokens("train", "web")
