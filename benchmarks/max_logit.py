"""What it costs to record each head's largest logit in attention, for QK-Clip."""

from __future__ import annotations

from unittest import mock

from benchmarks.harness import Entry, Work, alternate, compare, milliseconds
from benchmarks.scale import Scale, build
from benchmarks.training_step import muonclip_step
from k2core.model.attention import Attention

TOPIC = "max_logit"


def run(scale: Scale) -> list[Entry]:
    """One entry: a training step with the recording against the same step without it."""
    size, config = next(iter(scale.models.items()))
    batch = scale.batch(config)
    works = {
        "with": muonclip_step(build(config), scale.optimizer, *batch),
        "without": _unrecorded(muonclip_step(build(config), scale.optimizer, *batch)),
    }
    times = alternate(works, rounds=scale.rounds, seconds=scale.seconds)
    return [
        compare(
            f"training step with max logits, {size}", milliseconds(times["with"]), milliseconds(times["without"]),
            unit="ms", ratio_of="ours / peer", better="lower", goal=1.05, topic=TOPIC,
            note="the same step, recording patched out",
        )
    ]  # fmt: skip


def _unrecorded(step: Work) -> Work:
    """`step` with an attention that never observes, so that it records no maximum.

    Raises:
        RuntimeError: a maximum was recorded all the same, so that the comparison would say nothing.
    """
    blind = property(lambda _: False, lambda _, on: None)

    def work() -> None:
        with mock.patch.object(Attention, "observing", blind, create=True):
            metrics = step()
        if "qk_clip/max_logit" in metrics:
            raise RuntimeError("attention recorded its largest logits although that was patched out")

    return work
