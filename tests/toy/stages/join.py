"""Joins two files, or fails as told."""

from pathlib import Path

from pydantic import Field

from k2core.machine import Compute
from k2core.recipe import Section
from k2core.stage import Job, Metrics, StageError, main

SECTION = "join"


class Params(Section):
    fail: str = Field(description="'' to succeed, 'bad' for a permanent fault, 'once' for a passing one")


def run(params: Params, *, compute: Compute, left: Path, right: Path, out: Path, job: Job) -> Metrics:
    if params.fail == "bad":
        raise StageError("left has no column text; add it to the source")
    mark = job.scratch / "tried"
    if params.fail == "once" and not mark.exists():
        mark.touch()
        raise ConnectionError("the LLM server went away")
    out.write_text(left.read_text() + right.read_text())
    job.closing = "look at data/join"
    return {"characters": float(len(out.read_text()))}


if __name__ == "__main__":
    main(run, SECTION)
