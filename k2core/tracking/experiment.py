"""The MLflow experiment of this project: its description, its saved view, and the address of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from k2core.tracking.headlines import SECONDS, STAGE_SECONDS, table
from k2core.tracking.uri import tracking_uri

if TYPE_CHECKING:
    from mlflow.entities import Experiment
    from mlflow.tracking import MlflowClient

EXPERIMENT = "k2"
KIND, PIPELINE = "k2.kind", "pipeline"
VIEW = "pipelines"
TRAINING = "workflowType=machine_learning"
"""Makes MLflow's page hide what is for users of LLMs."""
QUERY = f"viewStateShareKey={VIEW}&{TRAINING}"
DESCRIPTION = """\
A run's name says the recipe, what was changed in it, and the outcome. \
The [view of pipeline runs](#/experiments/{id}/runs?{query}) shows them with the figures that matter; \
the runs of their stages are their child runs.

- **Metrics** say in their name which way is better. Figures of stages that DVC skipped count too.
- **Parameters** of a pipeline run are only those that differ from its base recipe (`recipe`).
- To **compare** pipeline runs, tick them and press *Compare*.
- A pipeline run's **description** says what changed, has its figures beside those of the run before, and links to \
the Prefect page and to the report. Stages have all their parameters, live curves, and the digests of their inputs \
and outputs. Their **artifacts** are their small outputs, a page about each large one, and `references.json`, which \
says how to fetch it.
- **Models** has every model with its figures and its lineage. Exports are versions of the registered model `k2`; its \
alias `champion` moves only to one that is better on the same items.
- **Traces** has some dialogues: those that models are trained on, and those that they played.
"""


def ensure_experiment(client: MlflowClient, root: Path) -> str:
    """The id of the experiment, which is made if missing, with its description and view as above."""
    found = client.get_experiment_by_name(EXPERIMENT) or _made(client, root)
    if found.lifecycle_stage == "deleted":  # in the page; its name stays taken, and nothing can be recorded in it
        client.restore_experiment(found.experiment_id)
    for key, value in _tags(found.experiment_id, root).items():
        if found.tags.get(key) != value:
            client.set_experiment_tag(found.experiment_id, key, value)
    return found.experiment_id


def _made(client: MlflowClient, root: Path) -> Experiment:
    from mlflow.exceptions import MlflowException

    served = tracking_uri(root).startswith("http")  # a server has a place for artifacts, a database has none
    place = None if served else (root.resolve() / "mlartifacts").as_uri()
    try:
        return client.get_experiment(client.create_experiment(EXPERIMENT, artifact_location=place))
    except MlflowException:
        found = client.get_experiment_by_name(EXPERIMENT)
        if found is None:
            raise
        return found  # another process was quicker


def runs_page(root: Path) -> str:
    """Where the table of pipeline runs is on an MLflow server of the workspace's records. Imports MLflow (seconds)."""
    from mlflow.tracking import MlflowClient

    return f"#/experiments/{ensure_experiment(MlflowClient(tracking_uri(root)), root)}/runs?{QUERY}"


def run_link(experiment: str, run: str, artifact: str = "") -> str:
    """Where a run, or one of its artifacts, is on the server that shows the link."""
    return f"#/experiments/{experiment}/runs/{run}{f'/artifacts/{artifact}' if artifact else ''}?{TRAINING}"


def found_link(experiment: str, search: str, order: str = "attributes.start_time") -> str:
    """The table of the runs that a search finds, e.g. ``tags.`k2.grid` = 'rates'``, the greatest `order` first."""
    query = {"searchFilter": search, "orderByKey": order, "orderByAsc": "false"}
    return f"#/experiments/{experiment}/runs?{urlencode(query, quote_via=quote)}&{TRAINING}"


def stages_link(experiment: str, run: str) -> str:
    """The table of a pipeline run's stages, the longest first: sorted by time they would hide under the run."""
    return found_link(experiment, f"tags.`mlflow.parentRunId` = '{run}'", f"metrics.`{STAGE_SECONDS}`")


def _tags(experiment: str, root: Path) -> dict[str, str]:
    """Description, view, and the kind that makes the page open on the table of runs, not on the one for LLM traces."""
    metrics = [f"metrics.`{name}`" for name in [*(line.name for line in table(root / "params.yaml")), SECONDS]]
    fixed = {"1": 73, "attributes.`Run Name`": 380, "runDateAndNestInfo": 150}
    state = {
        "searchFilter": f"tags.`{KIND}` = '{PIPELINE}'",
        "selectedColumns": metrics,
        "columnOrder": [*fixed, *metrics],
        "columnWidths": fixed | dict.fromkeys(metrics, 150),
    }
    # What the page's own "Save view" writes: MLflow documents the button, not the tag (looked up in 3.17).
    view = {"name": "Pipeline runs", "createdAt": 0, "updatedAt": 0, "state": json.dumps(state)}
    return {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": DESCRIPTION.format(id=experiment, query=QUERY),
        f"mlflow.sharedViewState.{VIEW}": json.dumps(view),
    }
