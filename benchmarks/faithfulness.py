"""The judge of faithfulness: what its limits catch of contradicted and unsupported sentences, and lose of supported.

The sentences are made by `benchmarks.calibration.sentences`; half of the articles choose limits, figures are of the
other half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby, product

from benchmarks.calibration.sentences import SUPPORTED, Labelled, labelled
from benchmarks.harness import ROOT, Entry, measured
from benchmarks.pages import rewrite
from benchmarks.scale import Scale
from k2core.corpus.sources.builtin import wikipedia
from k2core.figures.intervals import wilson
from k2core.figures.tables import table
from k2core.synthesis.fidelity import facts
from k2core.synthesis.fidelity import sentences as judge

TOPIC = "faithfulness"
DOC = ROOT / "docs" / "faithfulness.md"
SEED = 23
BUDGET = 0.1
"""Most supported sentences that chosen limits may lose."""
TRIED: Mapping[str, tuple[float, ...]] = {
    "near/numbers_invented": (0, 1, 9), "near/names_invented": (1, 2, 9), "whole/words_invented": (1, 2, 3),
    "near/roles": (-1, -0.3, -0.2, -0.1), "whole/support": (-1, 0.4, 0.5, 0.6),
}  # fmt: skip
_ARTICLES = wikipedia.Source(limit=2500, translations={})
_CHARACTERS = (200, 600)
Judged = list[tuple[Labelled, judge.Scores]]


def run(scale: Scale) -> list[Entry]:
    """Recall and loss on the measuring half; at full scale docs/faithfulness.md gets the table."""
    low, high = _CHARACTERS
    articles = [(doc.id, doc.text) for doc in wikipedia.documents(_ARTICLES) if low <= len(doc.text) <= high]
    common = facts.common_words(text for _, text in articles)
    judged: Judged = []
    for context, group in groupby(labelled(articles, SEED, common, scale.articles), key=lambda each: each.context):
        every = list(group)
        scores = judge.scores(context, [each.sentence for each in every], common)
        judged += zip(every, scores, strict=True)
    choosing, measuring = ([row for row in judged if row[0].held_out == half] for half in (False, True))
    caught, lost = _rates(measuring, judge.LIMITS)
    if scale.name == "full":
        rewrite(DOC, TOPIC, _page(choosing, measuring))
    note = f"{len(measuring)} sentences of held-out articles"
    return [
        measured("faithfulness: faulty sentences refused", [caught], unit="of them", topic=TOPIC, note=note),
        measured("faithfulness: supported sentences lost", [lost], unit="of them", topic=TOPIC, note=note),
    ]


def chosen(judged: Judged) -> dict[str, float]:
    """The limits of `TRIED` that catch most, losing at most `BUDGET`; the loosest where several do."""
    best, found = -1.0, dict(judge.LIMITS)
    for values in product(*TRIED.values()):
        limits = {**judge.LIMITS, **dict(zip(TRIED, values, strict=True))}
        caught, lost = _rates(judged, limits)
        if lost <= BUDGET and caught > best:
            best, found = caught, limits
    return found


def _rates(judged: Judged, limits: Mapping[str, float]) -> tuple[float, float]:
    """Share of the faulty sentences that are refused, and of the supported ones."""
    refused: dict[bool, list[bool]] = {True: [], False: []}
    for each, scores in judged:
        refused[each.label == SUPPORTED].append(judge.fault(scores, limits) != judge.SUPPORTED)
    return tuple(sum(refused[kind]) / max(1, len(refused[kind])) for kind in (False, True))  # type: ignore[return-value]


def _page(choosing: Judged, measuring: Judged) -> str:
    (caught, lost), found = _rates(measuring, judge.LIMITS), chosen(choosing)
    kinds: dict[tuple[str, str], list[bool]] = {}
    for each, scores in measuring:
        kinds.setdefault((each.label, each.kind), []).append(judge.fault(scores) != judge.SUPPORTED)
    rows = [
        [label, kind, f"{sum(refused)} of {len(refused)}", _interval(refused)]
        for (label, kind), refused in sorted(kinds.items(), key=lambda item: (item[0][0] != SUPPORTED, item[0]))
    ]
    limits = [
        [name, "at least" if name in judge.AT_LEAST else "at most", f"{limit:g}", f"{found[name]:g}"]
        for name, limit in judge.LIMITS.items()
    ]
    return "\n\n".join([
        f"{len(measuring)} sentences of {len({each.context for each, _ in measuring})} held-out articles: {caught:.3f} "
        f"of the faulty ones are refused, and {lost:.3f} of the supported ones.",
        table(["label", "kind", "refused", "95% interval"], rows),
        f"The limits, and those that catch most on the other half ({len(choosing)} sentences) while losing at most "
        f"{BUDGET:.0%} there:",
        table(["score", "", "limit", "chosen there"], limits),
    ])  # fmt: skip


def _interval(refused: Sequence[bool]) -> str:
    low, high = wilson(sum(refused), len(refused))
    return f"{low:.2f}–{high:.2f}"
