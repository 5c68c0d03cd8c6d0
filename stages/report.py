"""The whole run in pictures, `report/index.html`, and every rewrite with its verdict, `report/rewrites.html`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from k2core.recipe import Section
from k2core.stage import Job, Metrics, main
from stages.rephrase import Params as Rephrase

SECTION = "report"
SEED = 0
"""Seed of the intervals' resampling."""
GRAPH = Path("dvc.yaml")
"""What the page draws. DVC takes no dependency on it; a new arrow changes a command, and so figures or outputs."""
WHERE_TO_LOOK = "the chain has ended: open report/index.html; the model is in models/export; `make ui` shows all runs"


class Params(Section):
    """How much there is to read."""

    samples: int = Field(ge=1, description="examples of each kind: rewrites, dialogues, answers per environment")


def run(
    params: Params,
    rephrase: Rephrase,
    figures: Path,
    plots: Path,
    documents: Path,
    curated: Path,
    quality: Path,
    rephrased: Path,
    questions: Path,
    mixture: Path,
    tasks: Path,
    trajectories: Path,
    evals: Path,
    tools: Path,
    critic: Path,
    rollouts: Path,
    k2: Path,
    programs: Path,
    out: Path,
    job: Job,
) -> Metrics:
    """Read what the stages left and write the pages."""
    from k2core.figures.intervals import gain
    from k2core.planning.jobs import read_jobs
    from k2core.planning.k2 import reported
    from k2core.report.corpus import read_corpus
    from k2core.report.glance import cost, read_graph
    from k2core.report.page import COMPARISONS, headline, render
    from k2core.report.results import phases_of, read_results
    from k2core.storage import write_text

    results = read_results(figures, plots, curated, rephrased, trajectories, evals, tools, critic, rollouts, programs)
    corpus = read_corpus(documents, curated, tasks, quality, mixture, questions, phases_of(results.figures))
    gains = {
        score: gain(results.items[before][score], results.items[after][score], SEED)
        for _, score, (before, after) in COMPARISONS
    }
    claims = headline(results, gains)
    write_text(out / "rewrites.html", _rewrites(results.verdicts, corpus.documents, rephrase))
    costs = cost(results.figures, read_jobs(job.recipe), reported(k2))  # a change of these changes figures too
    write_text(out / "index.html", render(results, corpus, claims, params.samples, read_graph(GRAPH), costs))
    job.closing = WHERE_TO_LOOK
    held = sum(row["verdict"] == "holds" for row in claims)
    return {"claims": float(len(claims)), "claims_that_hold": float(held)} | {
        f"gain/{score}{bound}": value[key]
        for score, value in gains.items()
        for bound, key in (("", "value"), ("/low", "low"), ("/high", "high"))
    }


def _rewrites(verdicts: list[dict], documents: list[dict], rephrase: Rephrase) -> str:
    """The page of verdicts; names are told from other words by the documents that the gate told them by."""
    from k2core.report.rewrites import render
    from k2core.synthesis.fidelity.facts import common_words

    domains = {row["id"]: row["domain"] for row in documents}
    asked = {domains[row["source_id"]] for row in verdicts}
    common = common_words(row["text"] for row in documents if row["split"] == "train" and row["domain"] in asked)
    return render(verdicts, rephrase.gate, common)


if __name__ == "__main__":
    main(run, SECTION)
