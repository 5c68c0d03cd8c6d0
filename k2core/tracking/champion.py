"""The registered model `k2`, and which of its versions is called `champion`.

Each export becomes a version. The alias goes to it only if it beats the champion on the same held-out items: the
interval of what it gained per item in `tasks/pass_rate` lies above 0, and that of no other score below 0. Scores of
other items do not compare, so the alias stays where it is then; a person may move it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException

from k2core.figures.intervals import Score, gain

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

NAME, ALIAS = "k2", "champion"
SCORE = "tasks/pass_rate"
"""The score that decides."""
SEED = 0
"""Seed of the intervals' resampling."""
MOVED, STAYS = "moved", "stays"
ABOUT = """\
The models that the chain has exported, as Hugging Face folders. The alias `champion` moves to a new version only if \
its scorecard beats the champion's on the same held-out items; each version's description says what was decided, and \
with which figures.

```python
import mlflow
model = mlflow.pyfunc.load_model("models:/k2@champion")
print(model.predict(["Hello"], params={"max_new_tokens": 64}))
```
"""
Items = Mapping[str, Mapping[str, list[float]]]
"""Score → group → a value per item."""


@dataclass(frozen=True)
class Decision:
    """Whether the alias moved, why in a sentence, and the gain per item over the champion in each score."""

    alias: str
    reason: str
    champion: str = ""
    gains: dict[str, Score] = field(default_factory=dict)


def decide(challenger: Items, champion: Items | None, version: str = "") -> Decision:
    """Whether a model with the items' values `challenger` takes the alias from one with those of `champion`.

    Args:
        champion: None if no version has the alias; empty if its values are not known.
        version: the champion's.
    """
    if champion is None:
        return Decision(MOVED, "there was no champion")
    told = f"version {version}"
    if SCORE not in challenger or SCORE not in champion:
        return Decision(STAYS, f"no values of {SCORE} to compare with {told}", version)
    try:
        gains = {name: gain(champion[name], challenger[name], SEED) for name in champion if name in challenger}
    except ValueError as error:
        return Decision(STAYS, f"{told} was measured on other items: {error}", version)
    worse = [name for name, found in gains.items() if found["high"] < 0]
    better = gains[SCORE]["low"] > 0
    gained = f"{SCORE} {_words(gains[SCORE])} per item against {told}"
    if worse:
        return Decision(STAYS, f"worse than {told} in {', '.join(worse)}; {gained}", version, gains)
    return Decision(MOVED if better else STAYS, gained + ("" if better else ": within noise"), version, gains)


def _words(found: Score) -> str:
    return f"{found['value']:+.3f} (95%: {found['low']:+.3f} to {found['high']:+.3f})"


def register(client: MlflowClient, model_id: str, run_id: str, tags: dict[str, str], tasks: str) -> Decision | None:
    """A version of the registered model from an export, and the decision about the alias, recorded with it.

    Args:
        tags: of the version; `k2.md5` is the export's digest.
        tasks: digest of what it was evaluated on; values of others are not compared.

    Returns:
        None if a version has these bytes already.
    """
    _ensure(client)
    versions = client.search_model_versions(f"name = '{NAME}'")
    same = next((known for known in versions if known.tags.get("k2.md5") == tags["k2.md5"]), None)
    if same and same.tags.get("k2.alias"):
        return None
    before = _champion(client)
    values = None if before is None else _items(client, str(before.source))
    model = client.get_logged_model(model_id)
    version = same or client.create_model_version(
        NAME, model.artifact_location, run_id, {**tags, "k2.tasks": tasks}, model_id=model_id
    )
    if before is not None and before.tags.get("k2.tasks") != tasks:
        decision = Decision(STAYS, f"version {before.version} was measured on other tasks", str(before.version))
    else:
        decision = decide(_items(client, model.artifact_location), values, str(before.version) if before else "")
    if decision.alias == MOVED:
        client.set_registered_model_alias(NAME, ALIAS, version.version)
    client.update_model_version(NAME, version.version, _note(decision))
    client.log_dict(run_id, {"version": str(version.version), **asdict(decision)}, "champion.json")
    client.set_model_version_tag(NAME, version.version, "k2.alias", decision.alias)
    return decision


def _ensure(client: MlflowClient) -> None:
    try:
        known = client.get_registered_model(NAME)
    except MlflowException:
        client.create_registered_model(NAME, description=ABOUT)
        return
    if known.description != ABOUT:
        client.update_registered_model(NAME, ABOUT)


def _champion(client: MlflowClient) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(NAME, ALIAS)
    except MlflowException:
        return None


def _items(client: MlflowClient, place: str) -> dict[str, Any]:
    """The values in a model's folder; none if they are not there."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            file = download_artifacts(f"{place}/items.json", dst_path=folder, tracking_uri=client.tracking_uri)
            found = json.loads(Path(file).read_text(encoding="utf-8"))
        except (MlflowException, OSError, ValueError):
            return {}
    return found if isinstance(found, dict) else {}


def _note(decision: Decision) -> str:
    rows = [f"| {name} | {_words(found)} |" for name, found in decision.gains.items()]
    table = ["| score | gain per item over the champion |", "| --- | --- |", *rows] if rows else []
    return "\n".join([f"Alias `{ALIAS}` {decision.alias}: {decision.reason}.", "", *table])
