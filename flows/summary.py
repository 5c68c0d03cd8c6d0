"""What a person sees at the end of a run: on the Prefect page, and in the console."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from flows.graph import Graph
from flows.links import mlflow_address
from flows.outcome import COLOURS, Outcome
from k2core.tracking.experiment import run_link
from k2core.tracking.headlines import headlines, metrics_file, verdict
from k2core.tracking.lock import read_lock
from k2core.tracking.recipe import flat

MOST_LINES, MOST_OF_A_LINE = 12, 80


@dataclass(frozen=True)
class Before:
    """Recipe and headline figures of the outputs that are there before the run, whatever made them."""

    recipe: dict[str, Any]
    figures: dict[str, float]

    @classmethod
    def read(cls, root: Path) -> Before:
        """From `dvc.lock` and `metrics/`."""
        stages = read_lock(root).values()
        recipe = {key: value for stage in stages for file in stage.params.values() for key, value in flat(file).items()}
        return cls(recipe, headlines(root, root / "params.yaml"))

    def against(self, now: Before) -> list[str]:
        """What is different `now`, one line each; nothing of stages that had no outputs before."""
        keys = [key for key in now.recipe if key in self.recipe and now.recipe[key] != self.recipe[key]]
        lines = [_change(key, self.recipe[key], now.recipe[key]) for key in keys[:MOST_LINES]]
        lines += [f"and {len(keys) - MOST_LINES} more keys of the recipe"] if len(keys) > MOST_LINES else []
        for name, after in now.figures.items():
            before = self.figures.get(name)
            told = verdict(name, before, after) if before is not None else "same"
            if before is not None and told != "same":
                lines.append(f"{name.partition(':')[0]}: {before:.4g} → {after:.4g} ({told})")
        return lines


def _change(key: str, before: Any, now: Any) -> str:
    line = f"{key}: {before} → {now}"
    return line if len(line) <= MOST_OF_A_LINE else f"{key} changed"


def summary(root: Path, graph: Graph, outcomes: dict[str, Outcome], before: Before) -> None:
    """The graph, the table of stages and the way to MLflow as artifacts; the table and where to look as lines."""
    rows = [
        {
            "stage": stage,
            "state": outcome.state,
            "seconds": round(outcome.seconds, 1),
            "attempts": outcome.attempts,
            # A file of a stage that has not ended is of another run, or of nobody knows which.
            "figures": main_figures(root / "metrics" / metrics_file(stage)) if outcome.ended_well else "",
            "fault": outcome.error,
        }
        for stage, outcome in outcomes.items()
    ]
    create_markdown_artifact(
        key="k2-graph", markdown=drawing(graph, outcomes), description="The stage graph, coloured by state"
    )
    create_table_artifact(key="k2-stages", table=rows, description="State, time and main figures of every stage")
    for key, text, link in mlflow_links(root):
        create_link_artifact(key=key, link=link, link_text=text)
    width = max(map(len, outcomes))
    for row in rows:
        print(f"{row['stage']:<{width}}  {row['state']:<11} {row['seconds']:>7.1f} s  {row['figures']}")
    changes = before.against(Before.read(root))
    if changes:
        print("against what was here before this run:")
        for change in changes:
            print(f"  {change}")


def drawing(graph: Graph, outcomes: dict[str, Outcome]) -> str:
    """The graph in Mermaid's notation, which the page draws."""
    ids = {stage: f"s{number}" for number, stage in enumerate(graph.stages)}
    lines = ["```mermaid", "graph TD"]
    lines += [f'  {ids[stage]}["{stage}"]' for stage in graph.stages]
    lines += [f"  {ids[above]} --> {ids[stage]}" for stage in graph.stages for above in graph.upstream[stage]]
    lines += [f"  style {ids[stage]} fill:{COLOURS[outcomes[stage].state]}" for stage in graph.stages]
    return "\n".join([*lines, "```"])


def mlflow_links(root: Path) -> list[tuple[str, str, str]]:
    """Key, text and address of this process's pipeline run in MLflow and of the report, if it was made in this run."""
    state = root / "work" / "tracking.json"
    known = json.loads(state.read_text()) if state.exists() else {}
    if known.get("pid") != os.getpid():
        return []
    server, experiment = mlflow_address(), known["experiment"]
    links = [("k2-mlflow", "This run in MLflow", f"{server}/{run_link(experiment, known['parent'])}")]
    if "report" in known["stages"]:
        page = run_link(experiment, known["stages"]["report"], "report/index.html")
        links.append(("k2-report", "The report", f"{server}/{page}"))
    return links


def main_figures(path: Path, most: int = 3) -> str:
    """The first figures of a stage's metrics file, for a table's cell."""
    if not path.exists():
        return ""
    figures = json.loads(path.read_text())
    return ", ".join(f"{key} {value:.4g}" for key, value in list(figures.items())[:most])
