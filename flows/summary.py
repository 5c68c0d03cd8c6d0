"""What a person sees at the end of a run: on the Prefect page, and in the console."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from flows.graph import Graph
from flows.links import mlflow_address
from flows.outcome import COLOURS, Outcome


@dataclass(frozen=True)
class Before:
    """Recipe and figures of the workspace before the run."""

    @classmethod
    def read(cls, root: Path) -> Before:
        return cls()


def summary(root: Path, graph: Graph, outcomes: dict[str, Outcome], before: Before) -> None:
    """The graph, the table of stages and the way to MLflow as artifacts; the table and where to look as lines."""
    rows = [
        {
            "stage": stage,
            "state": outcome.state,
            "seconds": round(outcome.seconds, 1),
            "attempts": outcome.attempts,
            "figures": main_figures(root / "metrics" / f"{stage.replace('@', '-')}.json"),
            "fault": outcome.error,
        }
        for stage, outcome in outcomes.items()
    ]
    create_markdown_artifact(
        key="k2-graph", markdown=drawing(graph, outcomes), description="The stage graph, coloured by state"
    )
    create_table_artifact(key="k2-stages", table=rows, description="State, time and main figures of every stage")
    link = mlflow_run(root)
    if link:
        create_link_artifact(key="k2-mlflow", link=link, link_text="This run in MLflow")
    width = max(map(len, outcomes))
    for row in rows:
        print(f"{row['stage']:<{width}}  {row['state']:<11} {row['seconds']:>7.1f} s  {row['figures']}")


def drawing(graph: Graph, outcomes: dict[str, Outcome]) -> str:
    """The graph in Mermaid's notation, which the page draws."""
    ids = {stage: f"s{number}" for number, stage in enumerate(graph.stages)}
    lines = ["```mermaid", "graph TD"]
    lines += [f'  {ids[stage]}["{stage}"]' for stage in graph.stages]
    lines += [f"  {ids[above]} --> {ids[stage]}" for stage in graph.stages for above in graph.upstream[stage]]
    lines += [f"  style {ids[stage]} fill:{COLOURS[outcomes[stage].state]}" for stage in graph.stages]
    return "\n".join([*lines, "```"])


def mlflow_run(root: Path) -> str:
    """The page of this process's pipeline run in MLflow; empty if there is none (yet)."""
    state = root / "work" / "tracking.json"
    known = json.loads(state.read_text()) if state.exists() else {}
    if known.get("pid") != os.getpid():
        return ""
    return f"{mlflow_address()}/#/experiments/{known['experiment']}/runs/{known['parent']}"


def main_figures(path: Path, most: int = 3) -> str:
    """The first figures of a stage's metrics file, for a table's cell."""
    if not path.exists():
        return ""
    figures = json.loads(path.read_text())
    return ", ".join(f"{key} {value:.4g}" for key, value in list(figures.items())[:most])
