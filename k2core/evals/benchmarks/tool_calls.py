"""How well-formed and how right the calls are in greedy responses to the held-out tool tasks.

| name | what | interval |
|---|---|---|
| `tool_calls/schema_accuracy` | of the responses that call tools, share with valid calls only | Wilson |
| `tool_calls/valid_when_due` | where a call is due, share of responses that call, validly | Wilson |
| `tool_calls/trigger_accuracy` | share of responses that call a tool exactly when a call is due | Wilson |
| `tool_calls/trigger_precision` | of the responses that call tools, share where a call is due | Wilson |
| `tool_calls/trigger_recall` | where a call is due, share of responses that call | Wilson |
| `tool_calls/trigger_f1` | harmonic mean of the two (K2-Vendor-Verifier's `tool_call_f1`) | Wilson |
| `tool_calls/called_when_none_due` | where no call is due, share of responses that call all the same | Wilson |
| `tool_calls/exact` | where a call is due, share of responses with exactly the expected calls | Wilson |
"""

from __future__ import annotations

from collections.abc import Sequence

from k2core.evals.environments import Attempt
from k2core.evals.subject import Measured, Subject
from k2core.evals.tool_calls import CallCheck, check_calls
from k2core.figures.intervals import Score, share

ENVIRONMENT = "tool_call"


def measure(subject: Subject) -> Measured:
    """Judge the calls of the greedy responses."""
    return judged(subject.greedy[ENVIRONMENT])


def judged(attempts: Sequence[Attempt]) -> Measured:
    """The scores of the calls in the first response to each item."""
    checks = [
        check_calls(tried.rollouts[0].text, tried.item.tools or [], tried.item.meta["gold_calls"]) for tried in attempts
    ]
    each = {
        "valid_when_due": [float(check.valid) for check in checks if check.due],
        "exact": [float(check.exact) for check in checks if check.due],
        "called_when_none_due": [float(check.called) for check in checks if not check.due],
    }
    items = {f"tool_calls/{name}": {ENVIRONMENT: values} for name, values in each.items()}
    return Measured(call_scores(checks) | trigger_scores(checks), items)


def call_scores(checks: Sequence[CallCheck], name: str = "tool_calls") -> dict[str, Score]:
    """The tool-call scores, as `name/...`; no calls at all count as accuracy 0."""
    due = [check for check in checks if check.due]
    return {
        f"{name}/schema_accuracy": share(sum(check.valid for check in checks), sum(c.called for c in checks)),
        f"{name}/valid_when_due": share(sum(check.valid for check in due), len(due)),
        f"{name}/trigger_accuracy": share(sum(check.called == check.due for check in checks), len(checks)),
        f"{name}/exact": share(sum(check.exact for check in due), len(due)),
    }


def trigger_scores(checks: Sequence[CallCheck]) -> dict[str, Score]:
    """Whether tools are called when a call is due and only then; the calls themselves may be wrong."""
    both = sum(check.called and check.due for check in checks)
    called, due = sum(check.called for check in checks), sum(check.due for check in checks)
    # F1 = 2J / (1 + J) for the share J of responses that are right among those with a call made or due (Jaccard's
    # index). J is a share, so it has Wilson's interval, and F1 rises with it.
    overlap = share(both, called + due - both)
    return {
        "tool_calls/trigger_precision": share(both, called),
        "tool_calls/trigger_recall": share(both, due),
        "tool_calls/trigger_f1": {end: 2 * value / (1 + value) for end, value in overlap.items()},
        "tool_calls/called_when_none_due": share(called - both, len(checks) - due),
    }
