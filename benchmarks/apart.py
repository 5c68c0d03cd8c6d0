"""One step of curation over the tables of a folder, in a process that does nothing else: its seconds and its memory.

`python -m benchmarks.apart STEP FOLDER DOCUMENTS` prints them as JSON in its last line.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.compute  # noqa: F401 (its memory is not the step's)

from benchmarks.harness import memory
from k2core.corpus.steps.repeats import write_repeats
from k2core.corpus.workers import Corpus
from k2core.recipe import load_section
from k2core.stage import Job
from stages import curate, tag

LAPTOP = Path(__file__).parents[1] / "recipes" / "laptop.yaml"
HELDOUT = 500
"""Documents that are held out, about: the laptop recipe's share of a large corpus would be too many."""
HERE = Corpus(workers=1)
"""In this process, whose memory is measured."""
MIB = 2**20


def tagged(root: Path, count: int) -> None:
    params = load_section(tag.Params, LAPTOP, "tag")
    tag.run(params, HERE, root / "documents", root / "attributes", Job("tag", root / "work" / "tag", None))


def curation_of(count: int) -> curate.Params:
    """The laptop recipe's curation of so many documents."""
    params = load_section(curate.Params, LAPTOP, "curate")
    return params.model_copy(update={"heldout_fraction": min(params.heldout_fraction, HELDOUT / count)})


def curated(root: Path, count: int) -> None:
    params = curation_of(count)
    inputs = (root / name for name in ("documents", "attributes", "quality", "tasks"))
    curate.run(params, HERE, *inputs, root / "curated", Job("curate", root / "work" / "curate", None))


def searched(root: Path, count: int) -> None:
    """Once more the step of `curate` that sees all documents, alone."""
    params = load_section(curate.Params, LAPTOP, "curate")
    write_repeats(sorted((root / "work" / "curate" / "candidates").iterdir()), params, root / "work" / "again")


STEPS: dict[str, Callable[[Path, int], None]] = {"tag": tagged, "curate": curated, "search": searched}


def measured(step: str, root: Path, count: int) -> dict[str, float]:
    """Seconds of a step in this process, the most memory that it had, and how much more than at its start."""
    before, started = memory("VmRSS"), time.perf_counter()
    STEPS[step](root, count)
    seconds, most = time.perf_counter() - started, memory("VmHWM")
    return {"seconds": seconds, "peak_mib": most / MIB, "grown_mib": (most - before) / MIB}


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
