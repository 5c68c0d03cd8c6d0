"""Hugging Face datasets, streamed: from the Hub, or a folder with data files of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

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
        rows = load_dataset(source.path, source.subset or None, split=source.split, streaming=True)
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


def _reason(error: Exception) -> str:
    return "a data file without a row" if isinstance(error, StopIteration) else one_line(error)
