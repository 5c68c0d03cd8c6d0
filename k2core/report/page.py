"""Assembles the page: the story in order, each part with a picture, a table of figures and texts a person can read."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from k2core.figures.graph import drawn
from k2core.report import (
    benchmark_table,
    curves,
    glance,
    long_context,
    pictures,
    played,
    programs,
    quality,
    templates,
    tool_map,
)  # fmt: skip
from k2core.report.corpus import EXAMPLES, FAULTS, Corpus, best_and_worst, funnel_table, questions, rejections
from k2core.report.marks import RUN
from k2core.report.results import MODELS, PRETRAIN, Results, phases_of

RL_COLUMNS = ("passed", "reward/mean", "entropy", "length")
CRITIC_COLUMNS = ("critique/spread", "critique/agreement")
SFT_COLUMNS = ("train/loss", "train/grad_norm", "qk_clip/max_logit")
TEMPLATE, CORPUS = "page.html.jinja", "corpus.html.jinja"
"""The page, and the part of it that it includes."""
SCORED = "evaluate-"
"""Stages whose figures are the scorecards."""
COMPARISONS = (
    ("SFT raises tool-call schema accuracy (of calls due)", "tool_calls/valid_when_due", ("base", "sft")),
    ("RL raises the task pass rate over SFT", "tasks/pass_rate", ("sft", "rl")),
)
"""Claim, score, and the models before and after."""

PRETRAINING = (
    "K2's phases in its proportions: constant, cosine decay, anneal, long context. Beside bits per byte is what "
    "compressors make of the same held-out text: xz of all of a domain's documents as one stream, zstd of each alone "
    "with a dictionary trained on training text, and what xz adds after training text."
)
LONG_CONTEXT = (
    "The model beyond the context that it was trained with, and what YaRN brings: the same training on the same rows "
    "with and without it. Loss by position in windows that one document fills, and what is saved of it against the "
    "model before the extension; random-token needles found by depth and length; how much lower the loss of a passage "
    "is where it has occurred before."
)

CRITIC = (
    "A model that says which of two replies is better: how often it is right on held-out pairs, before and after its "
    "training; during RL, how far its verdicts on open prompts differ (0: it cannot tell replies apart), and how often "
    "it agrees with the verifiers."
)

Gains = Mapping[str, Mapping[str, float]]


def render(
    results: Results,
    corpus: Corpus,
    claims: list[dict[str, Any]],
    samples: int,
    graph: Mapping[str, Sequence[str]],
    cost: dict[str, Any],
) -> str:
    """The whole page as HTML, the run at a glance first; opens offline (plotly is inside).

    Args:
        claims: of `headline`.
        graph: stage → the stages that it reads from.
        cost: of `glance.cost`.
    """
    from plotly.offline import get_plotlyjs

    completions = _completions(results, samples)
    return templates.render(
        TEMPLATE, plotly=get_plotlyjs(), graph=drawn(graph, {}), cost=cost,
        some_answers=glance.some_answers(completions), corpus=_corpus(corpus, results.funnel), headline=claims,
        models=MODELS, parts=_parts(results),
        verdicts=_some_verdicts(results.verdicts, samples), dialogues=_some_dialogues(results, samples),
        completions=completions, played=played.some(results, samples),
        dialogue_scores=played.table(results.scorecards), scorecards=results.scorecards,
        scores=[name for name in results.scorecards[MODELS[-1]] if not played.of_a_group(name)],
        benchmarks=benchmark_table.table(results.scorecards), critic=_some_pairs(results.critic, samples),
        rollouts=results.rollouts, programs=programs.programs(results),
    )  # fmt: skip


def headline(results: Results, gains: Gains) -> list[dict[str, Any]]:
    """The claims a reader wants checked first, each with its figures and what they say of it.

    Args:
        gains: for each of `COMPARISONS`' scores, what it gained on the same items, with its 95% interval. A claim
            `holds` if that is above 0; `within noise` is a gain whose interval reaches down to 0.
    """
    phases = [results.figures[name]["heldout/bits_per_byte"] for name in _phase_names(results)]
    falls = all(before > after for before, after in pairwise(phases))
    rows: list[dict[str, Any]] = [{
        "claim": "Each pre-training phase lowers held-out bits per byte", "values": phases, "gain": None,
        "verdict": "holds" if falls else "does not hold",
    }]  # fmt: skip
    if copied := _copied(results):
        rows.append(copied)
    for title, name, models in COMPARISONS:
        gain = gains[name]
        verdict = "holds" if gain["low"] > 0 else "within noise" if gain["value"] > 0 else "does not hold"
        values = [results.scorecards[model][name]["value"] for model in models]
        rows.append({"claim": title, "values": values, "gain": gain, "verdict": verdict})
    return rows


def _copied(results: Results) -> dict[str, Any] | None:
    """Whether the last phase's model saves on a passage that it has just read; None where that was not measured."""
    names = _phase_names(results)
    key = next((key for key in results.figures[names[-1]] if re.fullmatch(r"copying/text/distance_\d+", key)), None)
    if key is None:
        return None
    last = results.figures[names[-1]]
    gain = {"value": last[key], "low": last[f"{key}/low"], "high": last[f"{key}/high"]}
    return {
        "claim": f"The base copies: nats per token saved on a passage {key.rpartition('_')[2]} tokens after its first "
        "occurrence, in the last phase (the values: in each)",
        "values": [results.figures[name][key] for name in names if key in results.figures[name]], "gain": gain,
        "verdict": "holds" if gain["low"] > 0 else "within noise" if gain["value"] > 0 else "does not hold",
    }  # fmt: skip


def _phase_names(results: Results) -> list[str]:
    return [f"{PRETRAIN}{phase}" for phase in phases_of(results.figures)]


def _parts(results: Results) -> list[dict[str, Any]]:
    """Title, sentence, pictures and the stages whose figures follow."""
    tools = tool_map.placed(results.tools)
    layout: list[tuple[str, str, list[Callable[[Results], Any]], list[str]]] = [
        ("Corpus", "What each rule removed, from all documents to those kept.", [quality.funnel],
         ["ingest", "tag", "curate", "rephrase", "train_tokenizer", "tokenize"]),
        ("Pre-training", PRETRAINING, [pictures.pretraining, curves.bits_per_byte], _phase_names(results)),
        ("Long context", LONG_CONTEXT, [long_context.loss_by_position, long_context.needles, long_context.copy_gain],
         ["extend_context"]),
        ("Agentic data", f"Tools, tasks and judged dialogues. {tool_map.sentence(tools)}",
         [lambda _: tool_map.tool_map(tools)], ["tools", "tasks", programs.STAGE, "trajectories"]),
        ("Supervised fine-tuning", "Loss on assistant tokens only.",
         [pictures.curves_of("sft", SFT_COLUMNS), pictures.before_after("sft")], ["sft"]),
        ("Critic", CRITIC, [pictures.before_after("critic", "accuracy/"), pictures.curves_of("rl", CRITIC_COLUMNS)],
         ["critic"]),
        ("Reinforcement learning", "The squared objective of K1.5 and K2 on verifiable tasks.",
         [pictures.curves_of("rl", RL_COLUMNS), pictures.before_after("rl")], ["rl"]),
        ("Evaluation", "The same held-out items for each model, 95% intervals.", [pictures.three_models], ["export"]),
    ]  # fmt: skip
    shown = {stage for *_, stages in layout for stage in stages}
    others = [stage for stage in results.figures if stage not in shown and not stage.startswith(SCORED)]
    if others:
        layout.append(("Other stages", "Their figures.", [], others))
    parts = []
    for number, (title, sentence, makers, stages) in enumerate(layout):
        figures = [made for make in makers if (made := make(results)) is not None]
        parts.append({
            "title": title, "sentence": sentence,
            "pictures": [pictures.as_html(figure, f"{number}-{place}") for place, figure in enumerate(figures)],
            "tables": {stage: results.figures[stage] for stage in stages if stage in results.figures},
        })  # fmt: skip
    return parts


def _corpus(corpus: Corpus, funnel: list[dict[str, Any]]) -> dict[str, Any]:
    """What the corpus' part shows below its funnel."""
    figures = [made for made in (quality.histograms(corpus), quality.agreement(corpus)) if made is not None]
    return {
        "funnel": funnel_table(funnel), "card": corpus.card, "set_aside": corpus.set_aside[:FAULTS],
        "set_aside_count": sum(row.get("more", 1) for row in corpus.set_aside),
        "rejections": rejections(corpus), "examples": EXAMPLES, "run": RUN,
        "quality": [pictures.as_html(figure, f"quality-{place}") for place, figure in enumerate(figures)],
        "best_and_worst": best_and_worst(corpus), "rates": "rate" in corpus.documents[0], "mixture": corpus.mixture,
        "questions": questions(corpus),
    }  # fmt: skip


def _some_verdicts(verdicts: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Accepted and rejected rewrites in turn, as many of each."""
    kept = [row for row in verdicts if row["accepted"]][:count]
    thrown = [row for row in verdicts if not row["accepted"]][:count]
    rows = [row for pair in zip(kept, thrown, strict=False) for row in pair]
    return rows + kept[len(thrown) :] + thrown[len(kept) :]


def _some_pairs(pairs: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Pairs that the critic got right and pairs that it got wrong, as many of each."""
    right, wrong = ([row for row in pairs if (row["chance"] > 0.5) == good][:count] for good in (True, False))
    return right + wrong


def _some_dialogues(results: Results, count: int) -> dict[str, Any]:
    failed = Counter(
        name for row in results.rejected for name, passed in _checks(row["verdict"].get("checks", {})) if not passed
    )
    return {
        "accepted": results.accepted[:count], "rejected": results.rejected[:count], "failed": failed.most_common(),
        "counts": (len(results.accepted), len(results.rejected)),
    }  # fmt: skip


def _checks(checks: Any) -> list[tuple[str, bool]]:
    if isinstance(checks, dict):
        return [(str(name), bool(passed)) for name, passed in checks.items()]
    return [(str(check.get("name", check.get("kind", ""))), bool(check.get("passed"))) for check in checks]


def _completions(results: Results, count: int) -> list[dict[str, Any]]:
    """The same prompts answered by each model, side by side."""
    rows, per_environment = [], Counter[str]()
    samples = {model: [row for row in rows if "completion" in row] for model, rows in results.samples.items()}
    answers = {model: {_prompt_key(row): row for row in samples[model]} for model in MODELS}
    for row in samples[MODELS[-1]]:
        key = _prompt_key(row)
        if per_environment[row["environment"]] < count and all(key in answers[model] for model in MODELS):
            per_environment[row["environment"]] += 1
            rows.append({**row, "answers": [answers[model][key] for model in MODELS]})
    return rows


def _prompt_key(row: dict[str, Any]) -> str:
    return json.dumps([row["environment"], row["prompt"]])
