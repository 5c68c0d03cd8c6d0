"""Two processes of one thread against one process of two threads: what each way of sharing a training out costs.

At each size one process and each way take turns, and a way is compared with its neighbour, so that a machine whose
speed drifts moves both. A ratio of 1 would mean that nothing is lost.
"""

from __future__ import annotations

import statistics

from benchmarks.harness import Entry, compare
from benchmarks.scale import Scale
from benchmarks.trainer import measured
from benchmarks.trainer_worker import Setting

TOPIC = "processes"
AXES = {
    "data-parallel": {"replicas": 2},
    "shards": {},
    "experts": {"experts": 2},
    "context": {"context": 2},
    "pipeline": {"pipeline": 2},
}
STEPS = {"2M": 45, "12M": 15, "40M": 9}
"""Of a training that is measured; at other sizes as many as at the first. The first third does not count."""
GOAL = ("12M", 0.75)
"""Issue 20's target: at this size, of the way that loses least."""


def run(scale: Scale) -> list[Entry]:
    """An entry for each size and way."""
    entries = []
    for size in scale.models:
        steps = STEPS.get(size, scale.steps)
        rates: dict[str, list[float]] = {way: [] for way in ("", *AXES)}
        for _ in range(scale.few_rounds):
            for way in rates:
                shared = {"processes": 2, **AXES[way]} if way else {}
                found = measured(Setting(size=size, steps=steps, **shared), scale)
                rates[way].append(statistics.median(interval["throughput/tps"] for interval in found))
        best = max(AXES, key=lambda way: statistics.median(rates[way]))
        entries += [
            compare(
                f"2 processes, {way}, {size}", rates[way], rates[""], unit="tokens/s", ratio_of="ours / peer",
                better="higher", goal=GOAL[1] if (size, way) == (GOAL[0], best) else None, topic=TOPIC,
                note="a thread each, gloo, against one process with two threads",
            )
            for way in AXES
        ]  # fmt: skip
    return entries
