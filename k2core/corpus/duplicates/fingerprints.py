"""What the search for duplicates reads: the fingerprints of each shard's documents as files of numbers, without texts.

A shard's folder has `ranked.arrow` (id and quality), `digests.npy`, `signatures.npy` and `keys.npy`: for the digest
and for each band of the signature a number by which equal ones are found. Documents are numbered over all shards, in
their order.

Shapes: N documents of all shards, S of one, D bytes of a digest, H places of a signature, B bands, R places of one.
"""

from __future__ import annotations

import os
import shutil
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

_DIGEST = 32


def spill(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the fingerprints of `rows` (`id`, `quality`, `digest`, `minhash`) into `folder`."""
    import pyarrow as pa

    folder.mkdir(parents=True, exist_ok=True)
    ids = pa.array([row["id"] for row in rows], pa.string())
    table = pa.table({"id": ids, "quality": pa.array([row["quality"] for row in rows], pa.float64())})
    with pa.OSFile(str(folder / "ranked.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    digests_SD = np.frombuffer(bytes.fromhex("".join(row["digest"] for row in rows)), np.uint8).reshape(-1, _DIGEST)
    signed = [place for place, row in enumerate(rows) if row["minhash"]]
    bands = len(rows[signed[0]]["minhash"]) if signed else 0
    signed_SH = np.frombuffer(b"".join(b"".join(rows[place]["minhash"]) for place in signed), "<u4")
    signed_SH = signed_SH.reshape(len(signed), -1) if signed else np.zeros((0, 0), "<u4")
    signatures_SH = np.zeros((len(rows), signed_SH.shape[1]), "<u4")
    signatures_SH[signed] = signed_SH
    keys_BS = np.zeros((1 + bands, len(rows)), "<u8")  # 0: none
    keys_BS[0] = np.maximum(digests_SD[:, :8].copy().view("<u8")[:, 0], 1)
    if signed:
        keys_BS[1:, signed] = np.maximum(_band_keys(signed_SH, bands).T, 1)
    for name, values in (("digests", digests_SD), ("signatures", signatures_SH), ("keys", keys_BS)):
        np.save(folder / f"{name}.npy", values)


def _band_keys(signatures_SH: np.ndarray, bands: int) -> np.ndarray:
    """A number for each band, shape (S, B): a polynomial of its hashes; different bands may share one by chance."""
    from k2core.corpus.duplicates.shingles import BASE

    hashes_SBR = signatures_SH.reshape(len(signatures_SH), bands, -1).astype(np.uint64)
    powers_R = np.cumprod(np.full(hashes_SBR.shape[2], BASE, np.uint64))
    return (hashes_SBR * powers_R).sum(axis=2, dtype=np.uint64)


class Fingerprints:
    """The fingerprints of all shards. Only what is asked for is in memory.

    Args:
        shards: the shards' folders, in order.

    Attributes:
        starts: the number of each shard's first document, and the number of documents.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        self._shards = shards
        shapes = [np.load(shard / "signatures.npy", mmap_mode="r").shape for shard in shards]
        self.starts: list[int] = [0, *np.cumsum([rows for rows, _ in shapes]).tolist()]
        self.hashes = max(hashes for _, hashes in shapes)
        self.bands = max(len(self._keys(shard)) for shard in shards) - 1
        self._digests = self._signatures = -1
        self._ids: dict[int, Any] = {}

    def __len__(self) -> int:
        return self.starts[-1]

    def ranking(self) -> np.ndarray:
        """The numbers of the documents by falling quality, equals by id, shape (N,)."""
        import pyarrow as pa
        import pyarrow.compute as pc

        ranked = pa.concat_tables(_mapped(shard) for shard in self._shards)
        order = pc.sort_indices(ranked, sort_keys=[("quality", "descending"), ("id", "ascending")])
        ranking_N = order.to_numpy().astype(np.int64)
        del ranked, order
        pa.default_memory_pool().release_unused()
        return ranking_N

    def keys(self, band: int) -> np.ndarray:
        """The keys of a band by document, shape (N,), 0 for none; band 0 is the digest, those of signatures follow."""
        keys_N = np.zeros(len(self), np.uint64)
        for shard, start, end in zip(self._shards, self.starts, self.starts[1:], strict=False):
            if len(keys_BS := self._keys(shard)) > band:
                keys_N[start:end] = keys_BS[band]
        return keys_N

    @contextmanager
    def joined(self, folder: Path) -> Iterator[None]:
        """Within the block, digests and signatures can be read by number, from two files in `folder`."""
        self._digests = self._join("digests", _DIGEST, folder)
        self._signatures = self._join("signatures", 4 * self.hashes, folder)
        try:
            yield
        finally:
            os.close(self._digests)
            os.close(self._signatures)

    def id_of(self, number: int) -> str:
        """The id of a document. What is read for it stays in memory until `forget`."""
        shard = bisect_right(self.starts, number) - 1
        if shard not in self._ids:
            self._ids[shard] = _mapped(self._shards[shard])["id"]
        return str(self._ids[shard][number - self.starts[shard]].as_py())

    def forget(self) -> None:
        """Give back the memory of the ids that were read."""
        self._ids.clear()

    def digest(self, number: int) -> bytes:
        return os.pread(self._digests, _DIGEST, number * _DIGEST)

    def signatures(self, numbers: Sequence[int]) -> np.ndarray:
        """The signatures of some documents, shape (len(numbers), H)."""
        size = 4 * self.hashes
        found = b"".join(os.pread(self._signatures, size, number * size) for number in numbers)
        return np.frombuffer(found, "<u4").reshape(len(numbers), self.hashes)

    def _keys(self, shard: Path) -> np.ndarray:
        return np.load(shard / "keys.npy", mmap_mode="r")

    def _join(self, name: str, width: int, folder: Path) -> int:
        """A file descriptor of the rows of all shards, `width` bytes each."""
        path = folder / name
        with path.open("wb") as joined:
            for shard in self._shards:
                with (shard / f"{name}.npy").open("rb") as file:
                    np.lib.format.read_magic(file)
                    (rows, columns), *_ = np.lib.format.read_array_header_1_0(file)
                    if columns:
                        shutil.copyfileobj(file, joined, 2**20)
                    else:  # no text of the shard is long enough for a signature
                        joined.seek(rows * width, os.SEEK_CUR)
            joined.truncate()
        return os.open(path, os.O_RDONLY)


def _mapped(shard: Path) -> Any:
    """Ids and qualities of a shard, read from the disk where they are looked at."""
    import pyarrow as pa

    return pa.ipc.open_file(pa.memory_map(str(shard / "ranked.arrow"))).read_all()
