"""The fidelity gate of rephrasing: what the laptop recipe's limits catch of corrupted rewrites, and lose of faithful.

The pairs are made by `benchmarks.calibration`; figures are of the held-out half of their articles. Limits
that the other half suggests are written next to them into docs/gate.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import TypeAdapter

from benchmarks.calibration import formats, joint, labelled
from benchmarks.calibration.choice import STEPS, Rates, Steps, choose, rates
from benchmarks.calibration.labelled import Pair
from benchmarks.harness import ROOT, Entry, compare
from benchmarks.pages import rewrite
from benchmarks.scale import LAPTOP, Scale
from k2core.corpus.sources.builtin import mathematics, wikipedia
from k2core.figures.intervals import wilson
from k2core.figures.tables import table
from k2core.recipe import read_recipe
from k2core.synthesis.fidelity import facts
from k2core.synthesis.fidelity.gate import GateLimits, measure
from k2core.synthesis.fidelity.headings import false_heading
from k2core.synthesis.fidelity.joint import joint_fault
from k2core.synthesis.rephrasing.styles import load_styles

TOPIC = "gate"
DOC = ROOT / "docs" / "gate.md"
RECALL, LOSS = 0.95, 0.10
"""The goals: share of corrupted rewrites rejected, at least; share of faithful ones rejected, at most."""
AIM, BUDGET = 0.98, 0.06
"""What limits are chosen for on the other half: a little more than the goals."""
SEED = 11
JOINT_STEPS = STEPS | {
    "length_ratio": ((0.1, 2.5),), "numbers_kept": (0.0,), "names_kept": (0.0,), "equations_kept": (0.0,),
    "coverage": (-1.0,), "copied": (1.0,), "negations_changed": (99,),
}  # fmt: skip
"""Joint questions need not say all of either text, and may answer in its words; denials are seen beside the limits."""
_ARTICLES = wikipedia.Source(limit=2500, translations={})
_CHARACTERS = (200, 500)
_TASKS = ["gsm_symbolic", "gcd", "products", "prime_factorization", "chain_sum"]


@dataclass(frozen=True)
class Measured:
    """Labelled pairs of one domain with their scores; `common` are the frequent words of its texts."""

    pairs: list[Pair]
    scores: list[dict[str, float]]
    common: frozenset[str]

    def half(self, held_out: bool) -> tuple[list[Pair], list[dict[str, float]]]:
        """The pairs of the articles that limits are chosen on, or of the others."""
        rows = [row for row in zip(self.pairs, self.scores, strict=True) if row[0].held_out == held_out]
        return [pair for pair, _ in rows], [scores for _, scores in rows]


def run(scale: Scale) -> list[Entry]:
    """Recall and loss of each domain's limits; at full scale docs/gate.md gets the tables."""
    entries, parts = [], []
    sets = labelled_sets(scale)
    for domain, measured in sets.items():
        limits = recipe_limits()[domain]
        found = rates(*measured.half(True), limits)
        entries += _entries(domain, found)
        parts.append(_section(domain, measured, limits, found))
    if scale.name == "full":
        parts += [formats_section(sets["knowledge"], recipe_limits()), joint_section(scale.articles, recipe_limits())]
        rewrite(DOC, TOPIC, "\n\n".join(parts))
    return entries


def recipe_limits() -> dict[str, GateLimits]:
    """`rephrase.gate` of the laptop recipe."""
    return TypeAdapter(dict[str, GateLimits]).validate_python(read_recipe(LAPTOP)["rephrase"]["gate"])


def labelled_sets(scale: Scale) -> dict[str, Measured]:
    """By domain: the labelled pairs of real articles and problems, with their scores."""
    low, high = _CHARACTERS
    articles = [(doc.id, doc.text) for doc in wikipedia.documents(_ARTICLES) if low <= len(doc.text) <= high]
    source = mathematics.Source(limit=3 * scale.problems, tasks=_TASKS, seed=SEED)
    problems = [(doc.id, doc.text) for doc in mathematics.documents(source) if re.search(r"\n.* = .*\n", doc.text)]
    made = {
        "knowledge": (labelled.knowledge, articles, scale.articles),
        "math": (labelled.maths, problems, scale.problems),
    }
    sets = {}
    for domain, (make, sources, count) in made.items():
        common = facts.common_words(text for _, text in sources)
        pairs = make(sources, SEED, common, count)
        sets[domain] = Measured(pairs, measure([(pair.source, pair.rewrite) for pair in pairs], common), common)
    return sets


def _entries(domain: str, found: Rates) -> list[Entry]:
    rejected, tried = found.total
    lost, faithful = found.lost
    share = {"unit": "of the rewrites", "ratio_of": "ours / peer", "topic": TOPIC, "goal": 1.0}
    return [
        compare(
            f"fidelity gate, {domain}: corrupted rewrites rejected", [found.recall], [RECALL], better="higher", **share,
            note=f"the goal; {rejected} of {tried}, 95% interval {_interval(rejected, tried)}, held-out articles",
        ),
        compare(
            f"fidelity gate, {domain}: faithful rewrites lost", [found.loss], [LOSS], better="lower", **share,
            note=f"the goal; {lost} of {faithful}, 95% interval {_interval(lost, faithful)}, held-out articles",
        ),
    ]  # fmt: skip


def _nothing(pairs: Sequence[Pair]) -> list[bool]:
    return [False] * len(pairs)


def _section(
    domain: str, measured: Measured, limits: GateLimits, found: Rates, steps: Steps = STEPS,
    seen: Callable[[Sequence[Pair]], list[bool]] = _nothing,
) -> str:  # fmt: skip
    pairs, scores = measured.half(False)
    left = [place for place, caught in enumerate(seen(pairs)) if not caught]
    chosen, way = choose([pairs[at] for at in left], [scores[at] for at in left], recall=AIM, loss=BUDGET, steps=steps)
    right, rejected = found.precision
    summary = [
        f"### {domain}",
        f"{len({pair.article for pair in measured.pairs})} sources, {len(measured.pairs)} rewrites. Held-out half, the "
        f"laptop recipe's limits: recall {found.recall:.3f} (mean of the kinds {found.recall_of_kinds:.3f}), precision "
        f"{right / rejected:.3f} ({_interval(right, rejected)}), loss {found.loss:.3f} ({_interval(*found.lost)}).",
    ]
    kinds = sorted(found.caught.items(), key=lambda item: item[1][0] / item[1][1])
    rows = [[kind, f"{hit} of {all_}", f"{hit / all_:.2f}", _interval(hit, all_)] for kind, (hit, all_) in kinds]
    caught = table(["fault", "rejected", "recall", "95% interval"], rows)
    tightened = [
        [name, _limit(limits_then, name), f"{now.recall:.3f}", f"{now.loss:.3f}"]
        for name, limits_then in way
        for now in [rates(*measured.half(True), limits_then, seen(measured.half(True)[0]))]
    ]
    agree = "they are the recipe's" if chosen == limits else "the recipe has others"
    curve = table(["tightened", "to", "recall, held out", "loss, held out"], tightened)
    return "\n\n".join([*summary, caught, f"Limits as the choosing half tightens them ({agree}):", curve])


def formats_section(measured: Measured, limits: Mapping[str, GateLimits]) -> str:
    """What the gate catches and loses of the held-out half put into formats, beside what it does with the prose."""
    pairs, scores = measured.half(True)
    found = {"prose": rates(pairs, scores, limits["knowledge"])}
    styles = load_styles(ROOT / "styles").styles
    for name in formats.HEADINGS:
        put = list(formats.put_pairs(pairs, name))
        bare = [(pair.source, styles[name].bare(pair.rewrite)) for pair in put]
        headings = [styles[name].headings(pair.rewrite) for pair in put]
        claimed = [false_heading(pair.source, own, measured.common) for pair, own in zip(put, headings, strict=True)]
        found[name] = rates(put, measure(bare, measured.common), limits[styles[name].gate], claimed)
    said = [
        replace(rate, caught={kind: count for kind, count in rate.caught.items() if kind not in formats.CLAIMS})
        for rate in found.values()
    ]
    rows = [
        ["recall, without headings", *(_share(*rate.total) for rate in said)],
        ["precision, without headings", *(_share(*rate.precision) for rate in said)],
        ["loss", *(_share(*rate.lost) for rate in said)],
    ]
    for kind in dict.fromkeys(kind for rate in found.values() for kind in rate.caught):
        counts = [rate.caught.get(kind) for rate in found.values()]
        if len(set(counts)) > 1:
            rows.append([kind, *("" if count is None else f"{count[0]} of {count[1]}" for count in counts)])
    note = (
        "Of a kind that is not listed, each format's rewrites are rejected as often as the prose. A true heading is no "
        "fault: its rejections are losses, beside those of the row above."
    )
    return "\n\n".join(["### knowledge, in formats", table(["", *found], rows), note])


def joint_section(count: int, limits: Mapping[str, GateLimits]) -> str:
    """What the gate catches and loses of joint questions about `count` pairs of linked articles."""
    measured = joint_set(count)
    found = rates(*measured.half(True), limits["joint"], joint_faults(measured.half(True)[0]))
    return _section("joint questions", measured, limits["joint"], found, JOINT_STEPS, joint_faults)


def joint_set(count: int) -> Measured:
    """Joint questions about pairs of linked articles, with the scores that the gate gives them."""
    documents = list(wikipedia.documents(wikipedia.Source(limit=20_000, translations={})))
    common = facts.common_words(document.text for document in documents)
    pairs = joint.joint(joint.linked_articles(documents, *_CHARACTERS), SEED, common, count)
    style = load_styles(ROOT / "styles").style("joint")
    scores = measure([(pair.source, style.bare(pair.rewrite)) for pair in pairs], common)
    return Measured(list(pairs), scores, common)


def joint_faults(pairs: Sequence[Pair]) -> list[bool]:
    """Of each of `joint_set`'s pairs, whether a question needs one text alone or denies something."""
    about = ((pair.linked, pair.rewrite) for pair in pairs if isinstance(pair, joint.JointPair))
    return [bool(joint_fault(it.first, it.second, text, " ".join(it.titles))) for it, text in about]


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3f} ({_interval(part, whole)})"


def _limit(limits: GateLimits, name: str) -> str:
    return str(getattr(limits, name, "as loose as tried"))


def _interval(part: int, whole: int) -> str:
    low, high = wilson(part, whole)
    return f"{low:.2f}–{high:.2f}"
