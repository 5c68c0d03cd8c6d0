"""What a person reads of a pipeline run: its name and its description in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from k2core.tracking.headlines import verdict
from k2core.tracking.recipe import RecipeChange

MOST_CHANGES = 40
"""Most changed keys that a description lists."""


@dataclass(frozen=True)
class Outcome:
    """How a pipeline run ended (`FINISHED`, `FAILED`, `KILLED`), why in a sentence, and what became of its stages."""

    status: str
    error: str
    seconds: float
    ran: list[str]
    cached: list[str]
    failed: list[str]

    @property
    def words(self) -> str:
        """`3 ran, 22 cached`, `failed in rl` or `stopped in rl`."""
        if self.status == "FINISHED":
            parts = [f"{len(stages)} {word}" for word, stages in (("ran", self.ran), ("cached", self.cached)) if stages]
            return ", ".join(parts) or "nothing to do"
        verb = "failed" if self.status == "FAILED" else "stopped"
        return f"{verb} in {', '.join(self.failed)}" if self.failed else verb


@dataclass(frozen=True)
class Before:
    """The finished pipeline run before: its name, its page, its headline figures."""

    name: str
    link: str
    figures: Mapping[str, float]


def run_name(recipe: RecipeChange, outcome: str) -> str:
    """E.g. `laptop, rl.tau=0.2: 3 ran, 22 cached`."""
    return f"{recipe.title}: {outcome}"


def description(
    recipe: RecipeChange, outcome: Outcome, figures: Mapping[str, float], before: Before | None,
    links: Mapping[str, str],
) -> str:  # fmt: skip
    """The description of a pipeline run in Markdown. Pages show its first lines and hide the rest behind a button."""
    parts = [
        " · ".join(f"[{title}]({address})" for title, address in links.items()),  # lower down they cannot be clicked
        f"> {' '.join(outcome.error.split())}" if outcome.error else "",
        _against(figures, before),
        _ended(outcome),
        *_recipe(recipe),
        _figures(figures, before),
    ]
    return "\n\n".join(part for part in parts if part)


def _ended(outcome: Outcome) -> str:
    how = {"FINISHED": "Finished", "FAILED": "Failed", "KILLED": "Stopped"}[outcome.status]
    where = f" in {', '.join(outcome.failed)}" if outcome.failed else ""
    ran = f" ({', '.join(outcome.ran)})" if outcome.ran else ""
    return (
        f"{how}{where} after {outcome.seconds:.0f} s: stages that ran: {len(outcome.ran)}{ran}; cached: "
        f"{len(outcome.cached)}."
    )


def _against(figures: Mapping[str, float], before: Before | None) -> str:
    """One line: which figures are better and which worse than in the run before."""
    if not before or not figures:
        return ""
    told: dict[str, list[str]] = {"better": [], "worse": [], "same": []}
    for name in figures:
        if name in before.figures:
            told[verdict(name, before.figures[name], figures[name])].append(name.split(": ")[0])
    words = [f"**{word}** {', '.join(told[word])}" for word in ("better", "worse") if told[word]]
    words += [f"{len(told['same'])} figures the same"] if told["same"] else []
    return f"Against [{_cell(before.name)}]({before.link}): {'; '.join(words) or 'no figure in common'}."


def _recipe(recipe: RecipeChange) -> list[str]:
    if not recipe.changed:
        return [f"The recipe is `{recipe.base}`, unchanged."]
    listed = list(recipe.changed.items())[:MOST_CHANGES]
    more = len(recipe.changed) - len(listed)
    rows = [(key, base, here) for key, (base, here) in listed]
    return [
        f"What differs from the recipe `{recipe.base}`:",
        _table(("key", recipe.base, "this run"), rows),
        f"… and {more} more." if more else "",
    ]


def _figures(figures: Mapping[str, float], before: Before | None) -> str:
    if not figures:
        return ""
    rows = []
    for name, value in figures.items():
        label, better = name.split(": ")
        old = before.figures.get(name) if before else None
        told = ("", "") if old is None else (f"{old:.4g}", verdict(name, old, value))
        rows.append((label, better.split()[0], told[0], f"{value:.4g}", told[1]))
    return _table(("figure", "better is", "run before", "this run", ""), rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table. MLflow's page leaves no room between columns, hence the spaces."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(c if c == '---' else _cell(c) + '&emsp;' for c in cells)} |" for cells in lines)


def _cell(text: str) -> str:
    short = text if len(text) <= 80 else text[:79] + "…"
    return short.replace("|", "\\|").replace("\n", " ")
