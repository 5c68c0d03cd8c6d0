"""Hugging Face datasets, streamed: from the Hub, or a folder with data files of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from k2core.corpus.sources.files import FileSource
from k2core.corpus.sources.shard import CORRUPT, Fault, Record, Shard, Unusable, is_temporary, one_line, to_record
from k2core.storage import StorageError
from k2core.storage.disk import of_the_machine


def list_shards(source: FileSource) -> list[Shard]:
    """The dataset's own shards; the Hub is asked once for all of them (datatrove's reader asks for each).

    Raises:
        StorageError: there is no such dataset, subset or split, or no access to it.
    """
    from datasets import load_dataset

    try:
        with _own_files_only(source.path):
            rows = load_dataset(source.path, source.subset or None, split=source.split, streaming=True)
        if rows.features:  # a column that calls itself a picture would be fetched from any address in it
            rows = rows.decode(False)
    except Exception as error:  # `datasets` raises whatever its parts do
        if is_temporary(error) or of_the_machine(error):
            raise
        raise StorageError(
            f"ingest.files: {source.name}: {source.path} cannot be loaded ({_reason(error)}); "
            "check its path, subset, split and access"
        ) from None
    total = rows.num_shards
    address = "/".join(part for part in (source.path, source.subset, source.split) if part)
    keys = [f"{number:05d}-of-{total:05d}" for number in range(total)]
    return [Shard(f"hf:{address}/{key}", key, "", rows.shard(total, number)) for number, key in enumerate(keys)]


def read(shard: Shard, columns: Mapping[str, str]) -> Iterator[Record | Fault]:
    """The record or the fault of every row.

    Raises:
        Unusable: `datasets` cannot make rows of the shard.
    """
    rows, row = iter(shard.content), 0
    while True:
        try:
            values = next(rows, None)
        except (OSError, MemoryError):
            raise  # the caller of all readers knows what these mean
        except Exception as error:
            if is_temporary(error):
                raise
            raise Unusable(CORRUPT, _reason(error)) from None
        if values is None:
            return
        row += 1
        yield to_record(row, values, columns)


@contextmanager
def _own_files_only(path: str) -> Iterator[None]:
    """Within the block `datasets` looks for data files in the dataset alone: its README may name any file and address.

    Raises:
        ValueError: the README names another place.
    """
    from datasets import data_files
    from datasets.utils.file_utils import is_relative_path

    resolve = data_files.resolve_pattern

    def inside(pattern: str, base_path: str, *rest: Any, **more: Any) -> list[str]:
        parts = PurePosixPath(base_path, pattern).parts
        own = base_path.startswith("hf://") or Path(base_path).is_relative_to(Path(path).resolve())
        if not (own and is_relative_path(pattern)) or ".." in parts:
            raise ValueError(f"it names data files outside itself: {pattern}")
        return resolve(pattern, base_path, *rest, **more)

    data_files.resolve_pattern = inside
    try:
        yield
    finally:
        data_files.resolve_pattern = resolve


def _reason(error: Exception) -> str:
    return "a data file without a row" if isinstance(error, StopIteration) else one_line(error)
