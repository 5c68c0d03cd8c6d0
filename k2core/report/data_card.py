"""The data card of an exported model: what it was trained on, from the chain's own files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from k2core.figures.tables import table
from k2core.report.card import Source, read_card
from k2core.report.mixture import Mixture, read_manifest
from k2core.report.results import read_json

STAGES = ("curate", "rephrase", "questions", "recall", "tokenize", "trajectories", "sft", "rl")
"""Stages whose figures the card tells."""
SYNTHETIC = {"qa": "questions with answers", "recall": "texts that can only be continued by reading back"}
"""Domains of the mixture that are made, not found."""
MAKERS = {
    "grammar": "question-answer pairs by a grammar, from articles", "llm": "question-answer pairs by a language model",
    "solved": "problems solved by a language model", "worked": "problems with their worked solution",
}  # fmt: skip
"""Makers of the stage `questions`."""
Figures = Mapping[str, Mapping[str, float]]


def data_card(name: str, sources: Path, funnel: Path, mixture: Path, figures: Path) -> str:
    """The card as Markdown.

    Args:
        sources: the data card that `ingest` wrote.
        funnel: documents left after each rule of `curate`.
        mixture: folder of the plan before pre-training.
        figures: folder of the stages' figures.

    Raises:
        StorageError: a file is missing or malformed.
    """
    found = {stage: read_json(figures / f"{stage}.json") for stage in STAGES}
    plan = read_manifest(mixture / "manifest.yaml", ())
    parts = [
        f"# Data card of {name}\n\nWhat the model was trained on, as the files of its run say. The texts keep the "
        "licences of their sources; each document's row names its licence, origin and author.",
        _sources(read_card(sources)),
        _filters(read_json(funnel), found["curate"]),
        _decontamination(found),
        _pretraining(plan),
        _synthetic(found),
        _post_training(found),
    ]
    return "\n\n".join(parts) + "\n"


def _sources(cards: list[Source]) -> str:
    rows = [(c.name, c.domain, c.origin, f"{c.documents:,}", f"{c.characters:,}") for c in cards]
    listed = table(("source", "domain", "what", "documents", "characters"), rows, 3)
    lists = [f"- **{c.name}**: {c.licences}. By {c.attribution}. Languages: {c.languages}." for c in cards]
    said = "Licences, authors and languages, with the number of documents:"
    return "\n\n".join(["## Sources", listed, said, "\n".join(lists)])


def _filters(steps: list[dict[str, Any]], curate: Mapping[str, float]) -> str:
    rows, before = [], steps[0]
    for step in steps[1:]:
        removed = [before[unit] - step[unit] for unit in ("documents", "characters")]
        if any(removed):
            rows.append((step["step"].replace("_", " "), *(f"{number:,}" for number in removed)))
        before = step
    return (
        "## Filters\n\n" + table(("rule", "documents removed", "characters removed"), rows, 1)
        + f"\n\n{steps[-1]['documents']:,} of {steps[0]['documents']:,} documents are left; {curate['heldout']:,.0f} "
        "of them are held out: never trained on, and measured with."
    )  # fmt: skip


def _decontamination(found: Figures) -> str:
    curate, questions = found["curate"], found["questions"]
    counts = {name.partition("/")[2]: number for name, number in curate.items() if name.startswith("searched/")}
    counts["held-out documents"] = counts.pop("heldout", 0)
    searched = [f"{number:,.0f} {name.replace('_', ' ')}" for name, number in counts.items()]
    return (
        "## Decontamination\n\n"
        f"Documents were searched for passages of what is measured with: {', '.join(searched)}. "
        f"{curate.get('rejected/contaminated', 0):,.0f} documents and {questions.get('rejected/contaminated', 0):,.0f} "
        "question-answer pairs were left out for it."
    )


def _pretraining(plan: Mixture) -> str:
    domains = list(dict.fromkeys(domain for rows in plan.phases.values() for domain in rows))
    totals = {phase: sum(row["tokens"] for row in rows.values()) for phase, rows in plan.phases.items()}
    rows = []
    for phase, own in sorted(plan.phases.items(), key=lambda item: -totals[item[0]]):
        shares = [_share(own[domain]["tokens"], totals[phase]) if domain in own else "" for domain in domains]
        rows.append((phase, f"{totals[phase]:,.0f}", *shares))
    made = sum(own[domain]["tokens"] for own in plan.phases.values() for domain in SYNTHETIC if domain in own)
    said = ", ".join(f"`{domain}` ({what})" for domain, what in SYNTHETIC.items() if domain in domains)
    end = f"\n\nSynthetic by domain: {_share(made, sum(totals.values()))} of all tokens, {said}." if said else ""
    return "## Pre-training\n\n" + table(("phase", "tokens", *domains), rows, 1) + end


def _synthetic(found: Figures) -> str:
    rephrase, questions, recall = found["rephrase"], found["questions"], found["recall"]
    tried, kept = rephrase.get("rewrites", 0), rephrase.get("accepted", 0)
    rows = [
        ("rewrites of documents by a language model, behind the fidelity gate", f"{kept:,.0f} of {tried:,.0f}"),
        *((what, f"{questions.get(f'accepted/{maker}', 0):,.0f}") for maker, what in MAKERS.items()),
        ("texts to read back, rearranged from documents by a program", f"{recall.get('documents', 0):,.0f}"),
    ]
    return "## Synthetic text\n\n" + table(("kind", "accepted"), rows, 1)


def _post_training(found: Figures) -> str:
    dialogues, sft, rl = found["trajectories"], found["sft"], found["rl"]
    accepted, rejected = dialogues.get("accepted", 0), dialogues.get("rejected", 0)
    program, model = (dialogues.get(f"accepted/{agent}", 0) for agent in ("oracle", "llm"))
    by = f"{program:,.0f} played by a program that is told the goal, {model:,.0f} by a language model"
    rows = [
        ("dialogues with tools that the judge accepted", f"{accepted:,.0f} of {accepted + rejected:,.0f} ({by})"),
        ("of them on real MCP servers", f"{dialogues.get('accepted/mcp', 0):,.0f}"),
        ("dialogues and demonstrations in fine-tuning", f"{sft.get('dialogues', 0):,.0f}"),
        ("items of verifiable tasks in reinforcement learning", f"{rl.get('pool/items', 0):,.0f}"),
    ]
    return "## After pre-training\n\nBeside text of the mixture above, all of it is synthetic.\n\n" + table(
        ("what", "how many"), rows, 1
    )


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}" if whole else "0%"
