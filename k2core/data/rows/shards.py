"""Token shards: flat files of token ids, one per split and domain, read through memory maps.

`<split>/<domain>.bin` holds the documents one after another, each ended by `eos_id`; `<domain>.ends.bin` (int64) where
each ends; `<domain>.bytes.bin` (uint32) the UTF-8 bytes of its text, for bits per byte; `<domain>.quality.bin` and
`<domain>.rate.bin` (float32) its score and how often it comes in an epoch. `manifest.json` says what is there. Thin:
one file per domain.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from k2core.storage import StorageError, write_json

SPLITS = ("train", "heldout")


@dataclass(frozen=True)
class TokenizedDocument:
    """A tokenised document on its way into a shard; `tokens` without the end mark.

    `quality` is in 0 to 1; `rate` in (0, 1] is how often it comes in an epoch.
    """

    split: str
    domain: str
    tokens: Sequence[int] | np.ndarray
    bytes: int
    quality: float = 1.0
    rate: float = 1.0


def token_dtype(vocab_size: int) -> np.dtype:
    """The type of token ids in files."""
    return np.dtype("uint16" if vocab_size < 65_536 else "uint32")


def write_shards(
    folder: Path, documents: Iterable[TokenizedDocument], *, vocab_size: int, eos_id: int, tokenizer: str = ""
) -> dict:
    """Write shards and manifest into the new folder `folder`, documents in the given order; returns the manifest.

    Args:
        tokenizer: digest of what made the tokens.

    Raises:
        ValueError: a token is outside the vocabulary or equals `eos_id`, or a rate or quality is out of range.
    """
    dtype = token_dtype(vocab_size)
    splits: dict[str, dict[str, dict[str, int]]] = {split: {} for split in SPLITS}
    files: dict[Path, BinaryIO] = {}
    try:
        for document in documents:
            ids = np.asarray(document.tokens, dtype=np.int64)
            if len(ids) and (ids.min() < 0 or ids.max() >= vocab_size or (ids == eos_id).any()):
                raise ValueError(f"a {document.domain} document has tokens outside 0..{vocab_size - 1} or {eos_id}")
            if not (0 < document.rate <= 1 and math.isfinite(document.quality)):
                raise ValueError(
                    f"a {document.domain} document has rate {document.rate} and quality {document.quality}; a rate is "
                    "above 0 and at most 1, a quality a finite number"
                )
            sums = splits[document.split].setdefault(document.domain, {"tokens": 0, "bytes": 0, "documents": 0})
            for name, added in (("tokens", len(ids) + 1), ("bytes", document.bytes), ("documents", 1)):
                sums[name] += added
            for what, content in (
                ("", np.append(ids, eos_id).astype(dtype)),
                ("ends", np.asarray([sums["tokens"]], "int64")),
                ("bytes", np.asarray([document.bytes], "uint32")),
                ("quality", np.asarray([document.quality], "float32")),
                ("rate", np.asarray([document.rate], "float32")),
            ):
                path = _path(folder, document.split, document.domain, what)
                if path not in files:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    files[path] = path.open("wb")
                files[path].write(content.tobytes())
    finally:
        for file in files.values():
            file.close()
    sums_by_split = {split: dict(sorted(domains.items())) for split, domains in splits.items()}
    head = {"vocab_size": vocab_size, "dtype": dtype.name, "eos_id": eos_id, "tokenizer": tokenizer}
    manifest = {**head, **sums_by_split}
    write_json(folder / "manifest.json", manifest)
    return manifest


class TokenShards:
    """Token shards opened for reading.

    Raises:
        StorageError: no manifest, or a shard whose size differs from what the manifest says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        path = self.folder / "manifest.json"
        try:
            self.manifest = json.loads(path.read_text())
        except FileNotFoundError:
            raise StorageError(f"{path}: no such manifest; run the stage tokenize (`dvc repro`)") from None
        except ValueError as error:
            raise StorageError(f"{path}: not valid JSON ({error}); run the stage tokenize again") from None
        self.vocab_size: int = self.manifest["vocab_size"]
        self.eos_id: int = self.manifest["eos_id"]

    def domains(self, split: str) -> list[str]:
        """The domains that `split` has tokens of, in name order."""
        return list(self.manifest[split])

    def tokens(self, split: str, domain: str) -> np.ndarray:
        """All token ids of a domain, shape (tokens,), memory-mapped."""
        return self._map("", split, domain, "tokens", self.manifest["dtype"])

    def document_bytes(self, split: str, domain: str) -> np.ndarray:
        """UTF-8 bytes of each document's text, shape (documents,)."""
        return self._map("bytes", split, domain, "documents", "uint32")

    def document_quality(self, split: str, domain: str) -> np.ndarray:
        """Score of each document, shape (documents,)."""
        return self._map("quality", split, domain, "documents", "float32")

    def document_rates(self, split: str, domain: str) -> np.ndarray:
        """How often each document comes in an epoch, in (0, 1], shape (documents,)."""
        return self._map("rate", split, domain, "documents", "float32")

    def document_ends(self, split: str, domain: str) -> np.ndarray:
        """Where each document ends (one past its end mark), shape (documents,)."""
        return self._map("ends", split, domain, "documents", "int64")

    def _map(self, what: str, split: str, domain: str, count: str, dtype: str) -> np.ndarray:
        if domain not in self.manifest[split]:
            known = ", ".join(self.domains(split)) or "none"
            raise StorageError(f"{self.folder}: split {split} has no domain {domain}; there are: {known}")
        path, wanted = _path(self.folder, split, domain, what), self.manifest[split][domain][count]
        try:
            found = path.stat().st_size
        except FileNotFoundError:
            raise StorageError(f"{path}: missing; run the stage tokenize again") from None
        if found != wanted * np.dtype(dtype).itemsize:
            raise StorageError(f"{path}: {found} bytes, the manifest says {wanted} × {dtype}; run tokenize again")
        return np.memmap(path, dtype=dtype, mode="r")


def _path(folder: Path, split: str, domain: str, what: str) -> Path:
    return folder / split / (f"{domain}.{what}.bin" if what else f"{domain}.bin")
