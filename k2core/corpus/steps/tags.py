"""The attributes of a shard's documents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from k2core.corpus.duplicates.dedup import MinhashConfig
from k2core.corpus.tagging import SET_ASIDE, attribute_schema, tag, tag_or_reason
from k2core.corpus.throughput import Pace
from k2core.corpus.workers import TRIES, Watch
from k2core.stage import StageError
from k2core.storage import publish, read_table, write_lines, write_table

KILLED = f"killed its process {TRIES} times"


@dataclass(frozen=True)
class Tagging:
    """The work on a documents' table of folder `documents`: called with its name, it publishes a folder in `tagged`.

    The folder holds the attributes, in a table of the same name and row order, and what was set aside. The call returns
    the paces of the signals.
    """

    documents: Path
    tagged: Path
    language_characters: int
    minhash: MinhashConfig

    def __call__(self, name: str, watch: Watch) -> dict[str, Pace]:
        table = self.documents / name
        rows = read_table(table, ["id", "text", "domain"])
        if not rows:
            raise StageError(f"{table}: no documents; run ingest again")
        paces: dict[str, Pace] = {}
        tagged, aside = [], []
        for row in rows:
            if watch.kills(row["id"]):
                attributes, reason = tag({**row, "text": ""}, self.language_characters, self.minhash), KILLED
            else:
                watch.at(row["id"])
                attributes, reason = tag_or_reason(row, self.language_characters, self.minhash, paces)
            tagged.append(attributes)
            aside += [{"id": row["id"], "reason": reason}] if reason else []
        watch.at("")
        with publish(self.tagged / name) as scratch:
            write_table(scratch / name, tagged, attribute_schema())
            if aside:
                write_lines(scratch / f"{table.stem}{SET_ASIDE}", aside)
        return paces
