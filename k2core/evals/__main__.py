"""The command: `python -m k2core.evals MODEL...`."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from k2core.recipe import RecipeError, load_section
from k2core.sandbox.config import SandboxConfig
from k2core.stage import StageError
from k2core.storage import StorageError
from k2core.storage.foreign import printable

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    models: list[str] = typer.Argument(help="a folder, hf:FOLDER (by transformers), or http://HOST/v1#MODEL"),
    data: Path | None = typer.Option(None, help="folder `data` of a run: asks about its tasks and held-out articles"),
    only: list[str] = typer.Option([], help="environments to ask, one per option; default: all"),
    harness: list[str] = typer.Option([], help="tasks of lm-evaluation-harness instead, by its names"),
    include: Path | None = typer.Option(None, help="folder with task files of your own for lm-evaluation-harness"),
    chat: bool = typer.Option(False, help="put the harness's questions into each model's chat template"),
    items: int = typer.Option(64, min=1, help="items of each environment, or of each task of the harness"),
    samples: int = typer.Option(4, min=1, help="replies to each item at temperature 1; the K of pass@K and pass^K"),
    max_tokens: int = typer.Option(256, min=1, help="tokens of a reply, at most; the paper's evaluations have 8192"),
    seed: int = typer.Option(1, help="of the items and of the sampling"),
    recipe: Path | None = typer.Option(
        None, help="recipe whose section `sandbox` says where answers that are programs run; default: this machine"
    ),
    out: Path | None = typer.Option(None, help="folder for scorecards, values per item and samples, as JSON"),
) -> None:
    """Score models side by side, with 95% intervals: ours, any Hugging Face folder, any OpenAI-compatible address."""
    try:
        if recipe:
            load_section(SandboxConfig, recipe, "sandbox").apply()
        if harness:
            from k2core.evals.harness import compare

            print(compare(models, harness, include, chat, items, seed, out))
            return
        _score(models, data, only, items, samples, max_tokens, seed, out)
    except (StageError, StorageError, RecipeError) as error:
        print(printable(f"evals: {error}"), file=sys.stderr)
        raise typer.Exit(1) from None


def _score(
    models: list[str], data: Path | None, only: list[str], items: int, samples: int, max_tokens: int, seed: int,
    out: Path | None,
) -> None:  # fmt: skip
    from k2core.evals.candidates import candidate_of, check
    from k2core.evals.side_by_side import asked_environments, measure, table
    from k2core.storage import write_json

    for model in models:
        check(model)
    environments, absent = asked_environments(data, only)
    for name, reason in absent.items():
        print(printable(f"not asked: {name} ({reason})"), file=sys.stderr)
    found = []
    for model in models:
        print(f"{model}: {items} items of {', '.join(environments)}", file=sys.stderr, flush=True)
        found.append(measure(
            candidate_of(model), environments, items=items, samples=samples, max_new_tokens=max_tokens, seed=seed
        ))  # fmt: skip
    print(printable(table(models, found, seed)))
    if out:
        out.mkdir(parents=True, exist_ok=True)
        for number, (model, one) in enumerate(zip(models, found, strict=True)):
            content = {"model": model, "scores": one.scores, "items": one.items, "samples": one.samples}
            write_json(out / f"{number}.json", content)


if __name__ == "__main__":
    app()
