"""The models of a pipeline run as MLflow's logged models, with their figures and data sets.

A model is an output below `models/`. MLflow has its configuration, small files, lineage and a reference to its
weights. DVC has the weights: a copy of K2's terabyte for each run would be no help, and the md5 finds the same bytes.

Tags of a model: `k2.stage`, `k2.path`, `k2.md5`, `k2.bytes`, `git.commit`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.entities import LoggedModelInput, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import ParamSchema, ParamSpec

from k2core.figures.graph import drawn
from k2core.storage import StorageError, write_json
from k2core.tracking.generation import PARAMETERS, REFERENCE
from k2core.tracking.generation import __name__ as LOADER
from k2core.tracking.lock import LockedStage, behind, data_deps, read_lock, upstream_of
from k2core.tracking.outputs import is_copied
from k2core.tracking.reference import reference, resolve

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

MODELS = "models"
"""The folder of outputs that are models."""
EVALUATE, EXPORT = "evaluate", "export"
"""The stages that measure models, and the one whose model is registered."""
TEXT, TASKS = "data/tokens", "data/tasks"
"""What figures of trainings, and of evaluations, were measured on."""
MOST = 100
"""Most figures in one request."""
EXTERNAL = {"mlflow.model.is_external": True}
"""Metadata of a model that MLflow itself cannot load."""


@dataclass(frozen=True)
class Made:
    """An output that is a model: its path and md5, the stage that made it, that stage's run, MLflow's id of it."""

    path: str
    md5: str
    stage: LockedStage
    run_id: str
    model_id: str

    @property
    def name(self) -> str:
        """`base`, `sft`, `export`, …"""
        return Path(self.path).name


def model_outs(stage: LockedStage) -> dict[str, str]:
    """Path → md5 of the stage's outputs that are models."""
    return {path: md5 for path, md5 in stage.outs.items() if Path(path).parts[0] == MODELS}


class Models:
    """The models of the stages in `lock`.

    Args:
        runs: stage → the run that made its present outputs, for stages whose outputs are not outdated.
    """

    def __init__(
        self, client: MlflowClient, experiment: str, root: Path, lock: Mapping[str, LockedStage],
        runs: Mapping[str, str],
    ) -> None:  # fmt: skip
        self.client, self.experiment, self.root, self.lock, self.runs = client, experiment, root, dict(lock), runs
        self._now = {path: md5 for stage in read_lock(root).values() for path, md5 in stage.outs.items()}
        self.found = {path: self._model(stage, path, md5) for stage in self._fresh() for path, md5 in
                      model_outs(stage).items()}  # fmt: skip

    def _fresh(self) -> Iterable[LockedStage]:
        return (self.lock[name] for name in self.runs if name in self.lock)

    def _model(self, stage: LockedStage, path: str, md5: str) -> Made:
        """The logged model of an output, which is made if it is missing."""
        run_id, name = self.runs[stage.name], Path(path).name
        known = self.client.search_logged_models([self.experiment], f"source_run_id = '{run_id}' AND name = '{name}'")
        model = known[0] if known else None
        if model is None:
            config = self._json(path, md5, "config.json")
            tags = {"k2.stage": stage.name, "k2.path": path, "k2.md5": md5, "k2.bytes": str(stage.sizes.get(path, ""))}
            commit = self.client.get_run(run_id).data.tags.get("git.commit")
            model = self.client.create_logged_model(
                self.experiment, name, run_id, tags | ({"git.commit": commit} if commit else {}),
                {key: str(value)[:500] for key, value in config.items() if not isinstance(value, dict)}, name,
            )  # fmt: skip
        made = Made(path, md5, stage, run_id, model.model_id)
        if model.status != LoggedModelStatus.READY:
            self._write(made)
            self.client.set_logged_model_tags(model.model_id, {"mlflow.note.content": self._note(made)})
            self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        return made

    def _resolve(self, path: str, md5: str, target: Path) -> Path:
        """As `resolve`, without reading a terabyte where `dvc.lock` says what lies there."""
        here = self.root / path
        return here if self._now.get(path) == md5 and here.exists() else resolve(self.root, path, md5, target)

    def _json(self, path: str, md5: str, name: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            try:
                content = json.loads((self._resolve(path, md5, Path(folder) / "x") / name).read_text("utf-8"))
            except (StorageError, OSError, ValueError):  # made elsewhere, or of another kind: then it is not told
                return {}
        return content if isinstance(content, dict) else {}

    def _write(self, made: Made) -> None:
        """What MLflow has of a model: `MLmodel`, the reference, the lineage, small files."""
        with tempfile.TemporaryDirectory() as folder:
            place, elsewhere = Path(folder) / "model", Path(folder) / "resolved"
            place.mkdir()
            size = made.stage.sizes.get(made.path)
            write_json(place / REFERENCE, reference(self.root, made.path, made.md5, size))
            stages = behind(self.lock, made.path)
            digests = {name: next(iter(stage.outs.values()))[:7] for name, stage in stages.items()}
            (place / "lineage.svg").write_text(drawn(upstream_of(stages), digests), encoding="utf-8")
            loadable = False
            try:
                source = self._resolve(made.path, made.md5, elsewhere)
            except StorageError:
                source = None
            if source:
                loadable = (source / "tokenizer.json").exists()
                for file in source.iterdir():
                    if file.is_file() and is_copied(file.suffix, file.stat().st_size):
                        shutil.copyfile(file, place / file.name)
            for name, path in self._scores(made):
                write_json(place / name, path)
            _mlmodel(made, loadable).save(str(place / "MLmodel"))
            self.client.log_model_artifacts(made.model_id, str(place))

    def _scores(self, made: Made) -> Iterable[tuple[str, Any]]:
        """File name → content of the model's scorecard and items; an export has those of the model it was made of."""
        stage = self.evaluation(made)
        for out, md5 in stage.outs.items() if stage else ():
            if Path(out).suffix:
                continue
            for name in ("scorecard.json", "items.json"):
                if content := self._json(out, md5, name):
                    yield name, content

    def evaluation(self, made: Made) -> LockedStage | None:
        """The stage that evaluated the model, or the model that it was exported from."""
        wanted = {made.md5}
        if made.stage.name == EXPORT:
            wanted = {md5 for path, md5 in made.stage.deps.items() if Path(path).parts[0] == MODELS}
        evaluations = (stage for stage in self._fresh() if stage.name.startswith(f"{EVALUATE}@"))
        return next((stage for stage in evaluations if wanted & set(stage.deps.values())), None)

    def _note(self, made: Made) -> str:
        stages = behind(self.lock, made.path)
        size = made.stage.sizes.get(made.path)
        return (
            f"`{made.path}`, made by stage `{made.stage.name}`"
            + (f", {size:,} bytes" if size else "")
            + f", md5 `{made.md5}`. DVC has the weights; {REFERENCE} below *Artifacts* says how to fetch them, "
            f"lineage.svg shows the {len(stages)} stages that led here: {', '.join(stages)}."
        )

    def connect(self, ran: Iterable[str], parent: str) -> None:
        """Join models and runs: what each run made and read, and the figures that say how good a model is."""
        for stage in (self.lock[name] for name in ran if name in self.runs):
            self._outputs(self.runs[stage.name], [made for made in self.found.values() if made.stage is stage])
            read = [made for path, made in self.found.items() if stage.deps.get(path) == made.md5]
            inputs = self.client.get_run(self.runs[stage.name]).inputs
            known = {model.model_id for model in inputs.model_inputs} if inputs else set()
            if new := [LoggedModelInput(made.model_id) for made in read if made.model_id not in known]:
                self.client.log_inputs(self.runs[stage.name], models=new)
        self._outputs(parent, list(self.found.values()))
        for made in self.found.values():
            self._figures(made, made.stage, TEXT)
            if evaluation := self.evaluation(made):
                self._figures(made, evaluation, TASKS)

    def _outputs(self, run_id: str, models: list[Made]) -> None:
        outputs = self.client.get_run(run_id).outputs
        known = {model.model_id for model in outputs.model_outputs} if outputs else set()
        if new := [LoggedModelOutput(made.model_id, 0) for made in models if made.model_id not in known]:
            self.client.log_outputs(run_id, new)

    def _figures(self, made: Made, stage: LockedStage, dataset: str) -> None:
        """The figures of a stage's run as the model's, measured on a data set that the stage read."""
        run = self.client.get_run(self.runs[stage.name])
        known = self.client.get_logged_model(made.model_id).metrics or []
        if any(metric.run_id == run.info.run_id for metric in known):
            return
        digest = data_deps(stage).get(dataset)
        about = {"dataset_name": dataset, "dataset_digest": digest} if digest else {}
        figures = {name: value for name, value in run.data.metrics.items() if not name.startswith("system/")}
        metrics = [
            Metric(name, value, run.info.end_time or run.info.start_time, 0, made.model_id, **about)
            for name, value in figures.items()
        ]
        for start in range(0, len(metrics), MOST):
            self.client.log_batch(run.info.run_id, metrics[start : start + MOST])


def _mlmodel(made: Made, loadable: bool) -> Model:
    """The file by which MLflow loads a model: an exported one by our loader, others not at all."""
    model = Model(run_id=made.run_id, model_id=made.model_id, metadata=None if loadable else dict(EXTERNAL))
    if loadable:
        model.add_flavor("python_function", loader_module=LOADER)
        kinds = {int: "long", bool: "boolean"}
        specs = [ParamSpec(name, kinds[type(value)], value) for name, value in PARAMETERS.items()]
        model.signature = ModelSignature(params=ParamSchema(specs))
    return model
