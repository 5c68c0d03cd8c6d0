"""The stages behind an artifact, sources first, one line each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from k2core.lineage.text import NEAREST
from k2core.storage import StorageError
from k2core.storage.foreign import one_line
from k2core.tracking.experiment import EXPERIMENT
from k2core.tracking.lock import LockedStage, behind, data_deps, producers, read_lock
from k2core.tracking.uri import tracking_uri

SHORT = 7
"""Characters of a digest, a run's id or a commit that a person compares."""
FIGURES: dict[str, tuple[tuple[str, str], ...]] = {
    "ingest": (("documents", "documents"), ("characters", "characters")),
    "tag": (("documents/*", "documents"),),
    "grade": (("documents", "documents"), ("judged", "judged by the LLM")),
    "curate": (("kept", "kept"), ("heldout", "of them held out")),
    "rephrase": (("accepted", "accepted"), ("rewrites", "rewrites made")),
    "questions": (("pairs", "pairs"),),
    "train_tokenizer": (("vocab_size", "entries"),),
    "tokenize": (("tokens/train/*", "tokens to train on"), ("tokens/heldout/*", "held out")),
    "plan_mixture": (("tokens", "tokens"), ("warnings", "warnings")),
    "pretrain": (("heldout/bits_per_byte", "bits per byte"), ("train/tokens_seen", "tokens seen")),
    "extend_context": (("heldout/bits_per_byte", "bits per byte"), ("train/tokens_seen", "tokens seen")),
    "tools": (("tools", "tools"),),
    "tasks": (("tasks", "tasks"),),
    "trajectories": (("accepted", "accepted"), ("rejected", "rejected")),
    "sft": (("heldout/trajectories_loss_after", "nats per token of held-out trajectories"),),
    "critic": (("accuracy/all_after", "of the held-out pairs right"),),
    "rl": (("heldout/pass_rate_after", "of the held-out tasks passed"), ("heldout/pass_rate_before", "before")),
    "evaluate": (("tasks/pass_rate", "of the tasks passed"), ("heldout/bits_per_byte", "bits per byte")),
    "export": (("export/max_logit_difference", "largest difference of logits"),),
}
"""Stage → the figures that count and what they are called; `*` sums over what the name goes on with."""


@dataclass(frozen=True)
class Chain:
    """What `dvc.lock` says of an artifact.

    Attributes:
        stages: the stages behind it by name, each after those it depends on.
        everything: all stages of `dvc.lock`.
    """

    root: Path
    artifact: str
    stages: dict[str, LockedStage]
    everything: dict[str, LockedStage]

    @classmethod
    def behind(cls, root: Path, artifact: str) -> Chain:
        """The chain behind `artifact`.

        Raises:
            StorageError: no stage made it.
        """
        everything = read_lock(root)
        if not producers(everything, artifact):
            made = sorted(out for stage in everything.values() for out in stage.outs)
            nearest = ", ".join(get_close_matches(artifact, made, NEAREST, 0.0)) or "none yet (`dvc repro`)"
            raise StorageError(f"{artifact}: no stage in dvc.lock made it; the nearest of what was made: {nearest}")
        return cls(root, artifact, behind(everything, artifact), everything)

    def behind_input(self, path: str) -> dict[str, LockedStage]:
        """The stages behind another path, in the same order."""
        return behind(self.everything, path)

    def folder(self, stage: str) -> Path | None:
        """What a stage of the chain made, without root; None if it is not in the chain."""
        return self.root / main_out(self.stages[stage]) if stage in self.stages else None

    def outdated(self) -> list[str]:
        """One sentence for each input that has been remade since a stage of the chain read it."""
        made = {out: (stage.name, md5) for stage in self.everything.values() for out, md5 in stage.outs.items()}
        return [
            f"{stage.name} read another {dep} ({md5[:SHORT]}) than {made[dep][0]} has made since "
            f"({made[dep][1][:SHORT]}); `dvc repro` makes them agree"
            for stage in self.stages.values()
            for dep, md5 in data_deps(stage).items()
            if dep in made and made[dep][1] != md5
        ]


def main_out(stage: LockedStage) -> str:
    """A stage's main output, rather than figures and curves."""
    return next((out for out in stage.outs if Path(out).suffix not in (".json", ".csv")), next(iter(stage.outs)))


def settings(stage: LockedStage) -> dict[str, Any]:
    """The sections of the recipe that were in force when the stage ran."""
    return {key: value for values in stage.params.values() for key, value in values.items()}


def described(chain: Chain, mlflow: bool) -> Iterator[str]:
    """A table: what each stage made, when, in which run, from which commit, and its figures that count."""
    runs = _runs(chain) if mlflow else {}
    rows = [("stage", "made", "md5", "began", "took", "MLflow run", "commit", "figures")]
    seconds = 0.0
    for stage in chain.stages.values():
        out, run = main_out(stage), runs.get(stage.name)
        seconds += run.seconds if run else 0.0
        told = (run.began.strftime("%m-%d %H:%M"), f"{run.seconds:,.0f} s", run.id, run.commit) if run else ("",) * 4
        rows.append((stage.name, out, stage.outs[out][:SHORT], *told, ", ".join(_figures(chain.root, stage))))
    shown = [column for column in range(len(rows[0])) if any(row[column] for row in rows[1:])]
    widths = {column: max(len(row[column]) for row in rows) for column in shown}
    for row in rows:
        yield "  ".join(row[column].ljust(widths[column]) for column in shown).rstrip()
    total = f", {seconds:,.0f} s in all" if runs else ""
    unknown = f", {len(rows) - 1 - len(runs)} of them by runs that are not in this MLflow store" if mlflow else ""
    unknown = "" if len(runs) == len(rows) - 1 else unknown
    yield f"{len(rows) - 1} stages{total}{unknown}; more with --sources, --document ID or --documents"
    yield from chain.outdated()


def _figures(root: Path, stage: LockedStage) -> list[str]:
    """The stage's figures that count; for a stage that `FIGURES` does not know, the first two."""
    path = next((root / out for out in stage.outs if Path(out).suffix == ".json"), None)
    if path is None or not path.exists():
        return []
    values = json.loads(path.read_text())
    base = stage.name.split("@")[0]
    chosen = FIGURES[base] if base in FIGURES else tuple((name, name) for name in list(values)[:2])
    told = []
    for name, words in chosen:
        stem = name.removesuffix("*")
        found = [value for key, value in values.items() if key == name or (stem != name and key.startswith(stem))]
        if found:
            told.append(f"{_short(sum(found))} {words}")
    return told


def _short(value: float) -> str:
    if abs(value) >= 1e6:
        return f"{value / 1e6:.1f}M"
    return f"{value:,.0f}" if value == round(value) else f"{value:.3g}"


@dataclass(frozen=True)
class _Run:
    id: str
    began: datetime
    seconds: float
    commit: str


def _runs(chain: Chain) -> dict[str, _Run]:
    """Stage → the MLflow run that made its present outputs."""
    uri = tracking_uri(chain.root)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return {}
    from mlflow.tracking import MlflowClient

    from k2core.tracking.runs import made_by

    found = {}
    try:
        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return {}
        for stage in chain.stages.values():
            run = made_by(client, experiment.experiment_id, stage)
            if run:
                ended = run.info.end_time or run.info.start_time
                began = datetime.fromtimestamp(run.info.start_time / 1000)
                commit = run.data.tags.get("git.commit", "")[:SHORT]
                seconds = (ended - run.info.start_time) / 1000
                found[stage.name] = _Run(run.info.run_id[:8], began, seconds, commit)
    except Exception as error:  # noqa: BLE001 (SQLAlchemy's own, a driver that is not installed)
        why = one_line(error)
        raise StorageError(f"MLflow at {uri} gives no answer ({why}); --no-mlflow does without it") from None
    return found
