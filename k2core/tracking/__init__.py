"""MLflow: runs, live metrics, datasets with DVC digests. It records; it decides nothing.

A stage never imports MLflow (four seconds each time): it writes JSON lines to a socket (`client`). One recorder
process for each `dvc repro` or flow run reads them and talks to MLflow (`recorder`, `runs`). The recorder sees the
connection of a killed stage close without a farewell, so no run stays RUNNING; and since it lives until the
pipeline's process has ended, it can record what only exists then: the digests of outputs and what DVC skipped.

`holding` is about the run itself: one at a time in a workspace.
"""
