"""What every stage is: a function from parameters and inputs to outputs, run from one command line.

A stage module holds a `Section` with its parameters, a function `run` and `main(run, SECTION)`. The signature of
`run` is its whole declaration; each parameter is filled by its annotation and name:

- a `Section` class: `params` is the stage's own section of `params.yaml`, any other name is the top-level section
  of that name (`model: ModelConfig` is section `model`);
- `Path`: a command-line option. `out` (a file or folder) and `plot` (a CSV file) are outputs: `run` gets a scratch
  path and the result appears by atomic rename. All others are inputs and must exist;
- `str`: a command-line option too; it may appear in the section name (``SECTION = "pretrain.{phase}"``);
- `Job`: resumable scratch space, progress, live metrics.

`run` returns the stage's figures, which go to the ``--metrics`` file: equal inputs must give equal figures, so
times and rates belong in `Job.log` (MLflow) instead.
"""

from k2core.stage.command import TEMPORARY_FAILURE, main
from k2core.stage.contract import OUTPUTS, RECIPE, Job, Metrics, StageError, sections_of
from k2core.stage.digest import code_digest
from k2core.stage.execute import WORK

__all__ = [
    "OUTPUTS", "RECIPE", "TEMPORARY_FAILURE", "WORK", "Job", "Metrics", "StageError", "code_digest", "main",
    "sections_of",
]  # fmt: skip
