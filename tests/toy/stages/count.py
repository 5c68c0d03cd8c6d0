"""Counts to `steps`, slowly, keeping its place in scratch."""

import os
import signal
import time
from pathlib import Path

from pydantic import Field

from k2core.recipe import Section
from k2core.stage import Job, Metrics, main
from k2core.storage import write_text

SECTION = "count"


class Params(Section):
    steps: int = Field(ge=1, description="how far to count")
    seconds_a_step: float = Field(ge=0, description="how long each step takes")


def run(params: Params, *, name: str, out: Path, job: Job) -> Metrics:
    place = job.scratch / "place"
    start = int(place.read_text()) if place.exists() else 0
    if start:
        job.say(f"continues at {start}")
    bar = job.progress(params.steps, "step", done=start)
    for step in range(start, params.steps):
        bar.update()
        time.sleep(params.seconds_a_step)
        write_text(place, str(step + 1))
        job.log({"train/step": float(step)}, step)
        flag = Path("work/kill-me")
        if name in (flag.read_text() if flag.exists() else "") and step == params.steps // 2:
            flag.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
    out.write_text(f"{name} {params.steps}\n")
    return {"steps": float(params.steps)}


if __name__ == "__main__":
    main(run, SECTION)
