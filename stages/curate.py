"""Thresholds, dedup by document and paragraph, held-out split, decontamination; what goes is kept with the reason.

Each domain has its rules over the attributes of `tag`; duplicates are sought across all sources among what the rules
keep, and the one of best quality (`grade`) stays. Sampling rates follow the quality within the domain. The held-out
part is chosen by hash of the document's id, so that it stays the same when sources grow. Training documents that hold
passages of evaluation sets or of held-out text are removed last.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from k2core.corpus.curation import (
    CONTAMINATED,
    EXACT,
    HELDOUT,
    NEAR,
    PARAGRAPHS,
    TRAIN,
    UNTAGGED,
    Contamination,
    CurationConfig,
    Funnel,
    write_passages,
)
from k2core.corpus.documents import DOMAINS
from k2core.corpus.workers import Corpus, Work, map_shards
from k2core.stage import Job, Metrics, StageError, main
from k2core.storage import count_rows, table_names, write_json

if TYPE_CHECKING:
    from k2core.corpus.steps.select import Selected

SECTION = "curate"


class Params(CurationConfig):
    """What is kept."""


def run(
    params: Params, corpus: Corpus, documents: Path, attributes: Path, quality: Path, tasks: Path, out: Path, job: Job
) -> Metrics:
    """Write kept and rejected documents and the funnel.

    What is done for a shard, and by the step that sees all shards, is in `job.scratch` and is not done again.
    """
    from k2core.corpus.steps import candidates, repeats, select
    from k2core.evals.text_sets import text_sets

    names = table_names(documents)
    counts = {name: count_rows(documents / name) for name in names}

    def marks(folder: str, ending: str = "") -> dict[str, Path]:
        return {name: job.scratch / folder / f"{Path(name).stem}{ending}" for name in names}

    def each(what: str, work: Work, done: Mapping[str, Path]) -> None:
        """Do the work on the tables that have no mark in `done`."""
        waiting = [name for name in names if not done[name].exists()]
        before = sum(counts[name] for name in names if name not in waiting)
        with job.progress(sum(counts.values()), "document", before, what) as bar:
            for name, _ in map_shards(work, waiting, corpus, job.scratch / "workers" / what.replace(" ", "_")):
                bar.update(counts[name])

    folders = marks("candidates")
    each("rules", candidates.Ruling(candidates.Inputs(documents, attributes, quality), params, folders), folders)
    found = job.scratch / "repeats"
    if not found.exists():
        job.say("looking for duplicates and repeated paragraphs")
        repeats.write_repeats([*folders.values()], params, found)
    leftovers = repeats.Leftovers(documents, folders, found)
    heldout, files = marks("heldout"), marks("found", ".json")
    each("held-out text", select.HeldOut(leftovers, params.decontamination.heldout_words, heldout), heldout)
    sets = text_sets(tasks)
    job.say(f"looking for {', '.join(group.name for group in sets)} and held-out text")
    passages = job.scratch / "passages"
    if not passages.exists():
        write_passages(sets, [*heldout.values()], params.decontamination, passages)
    each("contamination", select.Looking(leftovers, passages, files), files)
    search = Contamination(passages)
    selected = select.write_selected(leftovers, files, search, params, out)
    _check(selected, documents)
    write_json(out / "funnel.json", selected.funnel.table(_steps(params, selected.funnel)))
    return selected.figures() | search.figures | {"paragraphs_cut_from": float(selected.cut)}


def _check(selected: Selected, documents: Path) -> None:
    if not selected.funnel.ingested[0]:
        raise StageError(f"{documents}: its tables have no documents; run ingest again")
    for split in (TRAIN, HELDOUT):
        if not selected.splits[split]:
            raise StageError(
                f"{documents}: no document is left for the split {split}; loosen curate.rules, "
                "change curate.heldout_fraction or ingest more"
            )


def _steps(params: Params, funnel: Funnel) -> list[str]:
    rules = [name for domain in DOMAINS if domain in params.rules for name in params.rules[domain].attributes]
    first = [UNTAGGED] if UNTAGGED in funnel.gone else []
    return [*first, "language", *dict.fromkeys(rules), EXACT, NEAR, PARAGRAPHS, CONTAMINATED]


if __name__ == "__main__":
    main(run, SECTION)
