"""Files that are whole or absent, Parquet tables with checked columns, and DVC-compatible digests."""

from k2core.storage.atomic import publish, write_json, write_text
from k2core.storage.digest import dvc_md5
from k2core.storage.parquet import StorageError, read_table, read_tables, write_table

__all__ = [
    "StorageError",
    "dvc_md5",
    "publish",
    "read_table",
    "read_tables",
    "write_json",
    "write_table",
    "write_text",
]
