"""Files that are whole or absent, Parquet tables and JSON lines, DVC-compatible digests, splits by hash."""

from k2core.storage.atomic import publish, write_json, write_text
from k2core.storage.digest import dvc_md5
from k2core.storage.jsonl import read_lines, write_lines
from k2core.storage.parquet import (
    StorageError,
    count_rows,
    group_rows,
    read_columns,
    read_table,
    read_tables,
    stream_table,
    table_names,
    write_table,
)
from k2core.storage.parse import parse_json
from k2core.storage.split import Split, fraction_of, split_of

__all__ = [
    "Split",
    "StorageError",
    "count_rows",
    "dvc_md5",
    "fraction_of",
    "group_rows",
    "parse_json",
    "publish",
    "read_columns",
    "read_lines",
    "read_table",
    "read_tables",
    "split_of",
    "stream_table",
    "table_names",
    "write_json",
    "write_lines",
    "write_table",
    "write_text",
]
