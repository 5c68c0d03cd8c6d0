"""Tool calls of the same greedy replies with the Enforcer (K2, Appendix B), beside those of `tool_calls.py` without it.

| name | what | interval |
|---|---|---|
| `tool_calls/enforced/cut_off` | of the replies that call tools, share that the token budget cut | Wilson |
| `tool_calls/enforced/schema_accuracy` | of the replies that call tools and end, share with valid calls only | Wilson |
| `tool_calls/enforced/valid_when_due`, `…/trigger_accuracy`, `…/exact` | as in `tool_calls.py` | Wilson |

Schema accuracy is 1 unless a tool's schema cannot be enforced (`k2core/inference/enforcer.py` says which). A call that
the budget cuts is no call: it is neither valid nor exact, but no fault of the schema's either, so it counts apart.
"""

from __future__ import annotations

from k2core.evals.benchmarks.tool_calls import ENVIRONMENT, call_scores
from k2core.evals.environments import attempt
from k2core.evals.subject import Measured, Subject
from k2core.evals.tool_calls import check_calls
from k2core.figures.intervals import share
from k2core.inference.enforcer import Enforcer

NAME = "tool_calls/enforced"


def measure(subject: Subject) -> Measured:
    """Ask the held-out tool tasks once more, greedily, with the Enforcer."""
    tried = attempt(
        subject.model, subject.tokenizer, {ENVIRONMENT: subject.environments[ENVIRONMENT]},
        items=subject.settings.items, samples=1, temperature=0.0, seed=subject.seed,
        enforcer=Enforcer(subject.tokenizer),
    )[ENVIRONMENT]  # fmt: skip
    checks = [check_calls(one.rollouts[0].text, one.item.tools or [], one.item.meta["gold_calls"]) for one in tried]
    ended = [check for check, one in zip(checks, tried, strict=True) if not one.rollouts[0].truncated]
    called, called_and_ended = sum(check.called for check in checks), sum(check.called for check in ended)
    scores = call_scores(checks, NAME)
    scores[f"{NAME}/schema_accuracy"] = share(sum(check.valid for check in ended), called_and_ended)
    scores[f"{NAME}/cut_off"] = share(called - called_and_ended, called)
    return Measured(scores)
