"""One scorecard per model: what it can do on held-out data, by the benchmarks of `k2core/evals/benchmarks`.

Each benchmark's docstring lists its scores and their intervals (95%).
"""

from __future__ import annotations

from k2core.evals.subject import Measured, Subject
from k2core.recipe import modules_in


def measure(subject: Subject) -> Measured:
    """What all benchmarks found, together."""
    together = Measured({})
    for benchmark in modules_in("k2core.evals.benchmarks").values():
        found = benchmark.measure(subject)
        together.scores.update(found.scores)
        together.items.update(found.items)
        together.samples.extend(found.samples)
    return together
