"""The recipe checked as a whole, and what its sources are right now: the first stage, which runs on every `dvc repro`.

`ingest` depends on the table that this writes: a file that was changed, added or removed, another object in a bucket,
another commit of a dataset or another release of a package re-runs it, and nothing else does.

It also refuses a `dvc repro` that is typed while a pipeline run is at work: both would remove each other's outputs.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from k2core.corpus.sources.watch import state_of
from k2core.recipe import RecipeError
from k2core.stage import WORK, Job, Metrics, StageError, main
from k2core.tracking.holding import held_by_another
from stages.checks import recipe_faults
from stages.ingest import SOURCES, Params

SECTION = "ingest"


def run(params: Params, out: Path, job: Job) -> Metrics:
    """Write the state of every source that is not left out, by name."""
    if other := held_by_another(Path()):
        raise StageError(other)
    if faults := recipe_faults(job.recipe):
        raise RecipeError("\n".join(faults))
    built_in = {name: (source, getattr(params, name)) for name, source in SOURCES.items()}
    states = {name: source.installed(config) for name, (source, config) in built_in.items() if config.limit}
    states |= {source.name: state_of(source, WORK / "seen.sqlite", job) for source in params.files if source.limit != 0}
    out.write_text(yaml.dump(states, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)), encoding="utf-8")
    return {"sources": float(len(states))}


if __name__ == "__main__":
    main(run, SECTION, recorded=False)
