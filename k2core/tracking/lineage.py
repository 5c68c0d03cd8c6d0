"""From an artifact back to its sources: `python -m k2core.tracking.lineage models/rl`.

`dvc.lock` says which stage made which bytes from which others; MLflow says which run that was. Both are joined by
the md5 of the stage's lock entry (tag `dvc.fingerprint`).
"""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from k2core.tracking.lock import LockedStage, is_code, producers, read_lock

app = typer.Typer(add_completion=False)


@app.command()
def main(
    artifact: str = typer.Argument(help="a path that a stage made, e.g. models/rl"),
    mlflow: bool = typer.Option(True, help="look up the MLflow runs too (takes some seconds)"),
) -> None:
    """Print the chain of stages, runs and data behind an artifact, back to the sources."""
    from rich.console import Console

    stages = read_lock(Path("."))
    if not producers(stages, artifact):
        made = ", ".join(sorted(out for stage in stages.values() for out in stage.outs))
        raise SystemExit(
            f"{artifact}: no stage in dvc.lock made it; these were made: {made or 'none yet (`dvc repro`)'}"
        )
    runs = _runs(stages) if mlflow else {}
    # A pipe has no width: lines must not be cut for one.
    Console(width=None if sys.stdout.isatty() else 240).print(tree(stages, artifact, runs))


def tree(stages: dict[str, LockedStage], artifact: str, runs: dict[str, str]):
    """The chain as a tree; a stage met a second time is named, not repeated."""
    from rich.tree import Tree

    seen: set[str] = set()

    def grow(node: Tree, path: str) -> None:
        for name in producers(stages, path):
            stage = stages[name]
            branch = node.add(f"[b]{name}[/b]  {runs.get(name, '')}".rstrip())
            if name in seen:
                branch.add("(as above)")
                continue
            seen.add(name)
            code = sum(is_code(dep) for dep in stage.deps)
            branch.add(f"[dim]{code} source files, parameters {', '.join(_sections(stage)) or 'none'}[/dim]")
            for dep, md5 in stage.deps.items():
                if not is_code(dep):
                    grow(branch.add(f"{dep}  [dim]{md5}[/dim]"), dep)

    md5 = {out: digest for stage in stages.values() for out, digest in stage.outs.items()}.get(artifact, "")
    root = Tree(f"[b]{artifact}[/b]  [dim]{md5}[/dim]")
    grow(root, artifact)
    return root


def _sections(stage: LockedStage) -> list[str]:
    return [key for values in stage.params.values() for key in values]


def _runs(stages: dict[str, LockedStage]) -> dict[str, str]:
    """Stage → the MLflow run that made its present outputs, as text."""
    from datetime import datetime

    from k2core.tracking.runs import PipelineRuns

    book, found = PipelineRuns(Path(".")), {}
    for stage in stages.values():
        run = book.made_by(stage)
        if run:
            began = datetime.fromtimestamp(run.info.start_time / 1000)
            seconds = ((run.info.end_time or run.info.start_time) - run.info.start_time) / 1000
            commit = run.data.tags.get("git.commit", "no commit")[:9]
            found[stage.name] = f"run {run.info.run_id}, {began:%Y-%m-%d %H:%M}, {seconds:.0f} s, git {commit}"
        else:
            found[stage.name] = "no run in this MLflow store"
    return found


if __name__ == "__main__":
    app()
