"""Several models on the same items: a scorecard of each, and what each gains over the first, in pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

from k2core.evals.benchmarks.tool_calls import ENVIRONMENT, judged
from k2core.evals.benchmarks.verifiable_tasks import pass_rates, readable, task_scores
from k2core.evals.candidates import Candidate, Wanted
from k2core.evals.environments import Attempt, by_environment, chosen_items
from k2core.evals.subject import Measured
from k2core.figures.intervals import Score, gain, share
from k2core.gym.base import Environment
from k2core.gym.registry import text_environments
from k2core.inference.rollouts import Rollout
from k2core.recipe import modules_in
from k2core.stage import StageError
from k2core.storage import StorageError

PAIRED = "tasks/pass_rate"
READABLE = 2


def asked_environments(data: Path | None, names: Sequence[str]) -> tuple[dict[str, Environment], dict[str, str]]:
    """Those of the gym and of `suites` by name, and by name why others cannot be asked here.

    Args:
        data: the folder `data` of a run, whose tasks and held-out articles are asked about; None: none.
        names: only these; none: all.

    Raises:
        StageError: a name is none of them, or cannot be asked here.
    """
    known, absent = text_environments(), {}
    suites = modules_in("k2core.evals.suites")
    for name in suites if not names else [name for name in suites if name in names]:
        try:
            known[name] = suites[name].make(data)
        except StorageError as error:
            absent[name] = str(error)
    for name in names:
        if name in absent:
            raise StageError(f"{name}: {absent[name]}")
        if name not in known:
            raise StageError(f"no environment {name}; there are {', '.join(sorted({*known, *suites}))}")
    return {name: known[name] for name in names or known}, absent


def measure(
    candidate: Candidate, environments: Mapping[str, Environment], *, items: int, samples: int, max_new_tokens: int,
    seed: int,
) -> Measured:  # fmt: skip
    """Scores of one greedy reply and `samples` replies at temperature 1 to each item; names as in `benchmarks`.

    `replies/cut` is the share of replies that the budget or the model's context ended, `replies/beyond_context` that of
    replies to prompts which the context cannot hold, among them.
    """

    def attempts(count: int, temperature: float) -> dict[str, list[Attempt]]:
        chosen = chosen_items(environments, items, seed)
        wanted = [Wanted(item.messages, item.tools, max_new_tokens) for _, _, item in chosen]
        groups = []
        for (_, environment, item), replies in zip(
            chosen, candidate.replies(wanted, count, temperature, seed), strict=True
        ):
            scores = [0.0 if reply.truncated else environment.score(item, reply.text) for reply in replies]
            groups.append([
                Rollout([], [], reply.text, score, score >= 1.0, reply.truncated, [])
                for reply, score in zip(replies, scores, strict=True)
            ])  # fmt: skip
        return by_environment(chosen, groups)

    greedy, sampled = attempts(1, 0.0), attempts(samples, 1.0)
    found = Measured(task_scores(greedy, sampled, seed), {PAIRED: pass_rates(sampled)}, readable(greedy, READABLE))
    found.scores.update(_ends([*chain.from_iterable(
        one.rollouts for tried in (*greedy.values(), *sampled.values()) for one in tried
    )]))  # fmt: skip
    if ENVIRONMENT in greedy:
        calls = judged(greedy[ENVIRONMENT])
        found.scores.update(calls.scores)
        found.items.update(calls.items)
    return found


def _ends(replies: Sequence[Rollout]) -> dict[str, Score]:
    """How many replies did not end by themselves."""
    cut = [reply.text for reply in replies if reply.truncated]
    return {
        "replies/cut": share(len(cut), len(replies)),
        "replies/beyond_context": share(cut.count(""), len(replies)),
    }


def gains(found: Sequence[Measured], seed: int) -> list[Score]:
    """What each model but the first gains over it in `PAIRED`, with an interval over the items' differences."""
    return [gain(found[0].items[PAIRED], other.items[PAIRED], seed) for other in found[1:]]


def table(names: Sequence[str], found: Sequence[Measured], seed: int) -> str:
    """The scorecards side by side, a score per line, and the gains below."""
    width = max(map(len, found[0].scores))
    columns = [max(len(name), 23) for name in names]
    lines = ["  ".join([" " * width, *(name.rjust(column) for name, column in zip(names, columns, strict=True))])]
    for score in found[0].scores:
        cells = [shown(one.scores[score]).rjust(column) for one, column in zip(found, columns, strict=True)]
        lines.append("  ".join([score.ljust(width), *cells]))
    for name, gained in zip(names[1:], gains(found, seed), strict=True):
        lines.append(f"{PAIRED}, item by item: {name} over {names[0]} {shown(gained, '+')}")
    return "\n".join(lines)


def shown(score: Score, sign: str = "") -> str:
    """A value with its 95% interval."""
    value, low, high = (f"{score.get(end, score['value']):{sign}.3f}" for end in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
