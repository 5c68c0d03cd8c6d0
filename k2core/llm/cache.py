"""Replay cache: every answer is on disk before it is used, and no request is asked twice in a workspace.

One file for all stages (`work/answers.sqlite`), which outlives them: a stage that was killed, or runs again with
another threshold, pays only for new requests. Sampling at a temperature above zero on a server with batching is not
repeatable; with the cache the same request has the same answer.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from pathlib import Path
from typing import Any

from k2core.storage import StorageError, parse_json
from k2core.storage.disk import of_the_machine


def request_key(request: dict[str, Any]) -> str:
    """sha256 of the request as canonical JSON: another model, prompt, seed or limit is another request."""
    return hashlib.sha256(json.dumps(request, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class ReplayCache:
    """Answers by request. Safe for several threads and processes; each answer is committed by itself."""

    def __init__(self, path: Path) -> None:
        """Open or create the cache.

        Raises:
            StorageError: the file is not a cache that can be read.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, timeout=60, check_same_thread=False)
        try:
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT NOT NULL)")
        except sqlite3.DatabaseError as error:
            self._database.close()
            if of_the_machine(error):
                raise
            raise StorageError(f"{path}: not a readable replay cache ({error}); delete it and run again") from None

    def get(self, key: str) -> dict[str, Any] | None:
        """The stored answer, or None."""
        with self._lock:
            row = self._database.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        return parse_json(row[0]) if row else None

    def put(self, key: str, answer: dict[str, Any]) -> None:
        """Store an answer; it survives the death of the process once this returns."""
        with self._lock, self._database:
            self._database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, json.dumps(answer)))

    def close(self) -> None:
        self._database.close()
