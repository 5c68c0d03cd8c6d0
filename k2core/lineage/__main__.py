"""The command: `python -m k2core.lineage ARTIFACT [--sources | --document ID | --documents]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from k2core.lineage.chain import Chain, described
from k2core.machine.proxies import spare_loopback
from k2core.recipe import RecipeError
from k2core.storage import StorageError
from k2core.storage.foreign import printable

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def main(
    artifact: str = typer.Argument(help="a path that a stage made, e.g. models/export or data/tokens"),
    sources: bool = typer.Option(False, "--sources", help="the sources: path or packages, licences, what was kept"),
    document: str = typer.Option("", metavar="ID", help="one document's way from its origin into the training steps"),
    documents: bool = typer.Option(False, "--documents", help="every document trained on and how often, as TSV"),
    mlflow: bool = typer.Option(True, help="look up the MLflow runs of the stages (takes some seconds)"),
) -> None:
    """Say where an artifact comes from: by itself the stages that led to it, one line each.

    ID is a document's id or the first part of one. Steps are counted from 0 within their phase. A document that is
    seen 0.5 times was trained on with half of its tokens; packing leaves some pieces out.

    Answers follow dvc.lock, with the recipe that was in force then.
    """
    if sum((sources, bool(document), documents)) > 1:
        raise typer.BadParameter("--sources, --document and --documents are three questions; ask one at a time")
    spare_loopback()
    try:
        chain = Chain.behind(Path("."), artifact)
        if (sources or document or documents) and (mixed := chain.outdated()):
            raise StorageError(mixed[0])
        for line in _answer(chain, sources, document, documents, mlflow):
            print(printable(line))
    except (StorageError, RecipeError) as error:
        print(printable(f"lineage: {error}"), file=sys.stderr)
        raise typer.Exit(1) from None


def _answer(chain: Chain, sources: bool, document: str, documents: bool, mlflow: bool) -> Iterator[str]:
    if sources:
        from k2core.lineage.sources import read_sources

        return (line for source in read_sources(chain) for line in source.lines())
    if document:
        from k2core.lineage.document import story

        return story(chain, document)
    if documents:
        from k2core.lineage.training import listed

        return listed(chain)
    return described(chain, mlflow)


if __name__ == "__main__":
    app()
