"""One HTML page that tells the whole run in pictures: `report/index.html`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from k2core.recipe import Section
from k2core.stage import Job, Metrics, main

SECTION = "report"
SEED = 0
"""Of the intervals' resampling."""


class Params(Section):
    """How much there is to read."""

    samples: int = Field(ge=1, description="examples of each kind: rewrites, dialogues, answers an environment")


def run(
    params: Params,
    figures: Path,
    plots: Path,
    curated: Path,
    rephrased: Path,
    trajectories: Path,
    evals: Path,
    out: Path,
    job: Job,
) -> Metrics:
    """Read what the stages left and write the page."""
    from k2core.evals.scorecard import gain
    from k2core.report.page import COMPARISONS, headline, render
    from k2core.report.results import read_results
    from k2core.storage import write_text

    results = read_results(figures, plots, curated, rephrased, trajectories, evals)
    gains = {
        score: gain(results.items[before][score], results.items[after][score], SEED)
        for _, score, (before, after) in COMPARISONS
    }
    claims = headline(results, gains)
    page = render(results, claims, params.samples)
    write_text(out / "index.html", page)
    job.artifact(out / "index.html")
    held = sum(row["verdict"] == "holds" for row in claims)
    return {"claims": float(len(claims)), "claims_that_hold": float(held)} | {
        f"gain/{score}{bound}": value[key]
        for score, value in gains.items()
        for bound, key in (("", "value"), ("/low", "low"), ("/high", "high"))
    }


if __name__ == "__main__":
    main(run, SECTION)
