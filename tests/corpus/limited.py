"""`collect` in a process that may take so many bytes: `python limited.py BYTES FOLDER SOURCE...` (sources as JSON).

Prints, by source, how many characters its documents have and what was set aside.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

if __name__ == "__main__":
    most, folder = int(sys.argv[1]), Path(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))

    from k2core.corpus.sources.collection import collect
    from k2core.corpus.sources.files import FileSource
    from k2core.corpus.workers import Corpus
    from k2core.stage import Job
    from k2core.storage import StorageError

    said = {}
    for text in sys.argv[3:]:
        config = FileSource(**json.loads(text))
        out = folder / config.name
        out.mkdir()
        try:
            collect(config, out, 2**28, Corpus(workers=1), Job("ingest", folder / "scratch", None))
        except StorageError as error:
            said[config.name] = [0, [str(error)]]
            continue
        import pyarrow.parquet as pq

        with pq.ParquetFile(out / f"{config.name}.parquet") as table:
            size = table.metadata.num_rows
        aside = (out / f"{config.name}.set_aside.jsonl").read_text().split("\n")
        said[config.name] = [size, [json.loads(line)["reason"] for line in aside if line]]
    print(json.dumps(said))
