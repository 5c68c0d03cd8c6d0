"""YaRN context extension: switch the rotary scaling, train shortly on longer rows, measure both (K2 §2.5).

Measured before (the model as it came, beyond its context) and after: held-out bits per byte in short and long
windows, bits a token by position in long windows, and whether a passage is found again by depth.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from k2core.model.config import YarnConfig
from k2core.optim.config import MuonClipConfig
from k2core.recipe import Compute
from k2core.stage import Job, Metrics, StageError, main
from k2core.training.phase import Phase, TrainerState, run_phase

SECTION = "extend_context"


class Params(Phase):
    """A phase at the longer context, and the extension itself; `heldout_context` is the short window."""

    rope_scaling: YarnConfig = Field(description="YaRN: factor and the context that the model was trained with")
    retrieval_samples: int = Field(ge=1, description="needles a depth")


def run(
    params: Params, optimizer: MuonClipConfig, compute: Compute, init: Path, tokens: Path, out: Path, plot: Path,
    job: Job,
) -> Metrics:  # fmt: skip
    """Extend the context of `init`; `out` has no optimiser state, nothing goes on from it."""
    compute.apply()
    from itertools import pairwise
    from statistics import fmean

    import numpy as np

    from k2core.corpus.heldout import figure_names, score_all, summary
    from k2core.corpus.shards import Shards
    from k2core.model.files import load_model, save_model
    from k2core.optim.muonclip import MuonClip
    from k2core.training.checkpoint import load_optimizer
    from k2core.training.retrieval import needle_accuracy

    if params.context_length != params.rope_scaling.context:
        raise StageError(
            f"extend_context.context_length is {params.context_length}, but rope_scaling reaches "
            f"{params.rope_scaling.context} (factor × original context); make them equal"
        )
    shards = Shards(tokens)

    def measure(model, when: str) -> Metrics:
        figures: Metrics = {}
        for name, context in (("short", params.heldout_context), ("long", params.context_length)):
            scored = score_all(model, tokens, context=context, max_tokens=params.heldout_tokens)
            figures |= figure_names(summary(scored), f"{when}/bits_per_byte_{name}")
        edges = [0, *(params.context_length // 2**power for power in (3, 2, 1, 0))]
        for low, high in pairwise(edges):
            nats = [
                item.nats_N[(item.positions_N >= low) & (item.positions_N < high)] for item in scored.values()
            ]  # fmt: skip
            if any(map(len, nats)):
                figures[f"{when}/nats_per_token/position_{low}-{high}"] = float(np.concatenate(nats).mean())
        found = needle_accuracy(
            model, shards, context=params.context_length, samples=params.retrieval_samples, seed=compute.seed
        )
        figures |= {f"{when}/retrieval/depth_{depth}": share for depth, share in found.items()}
        return figures | {f"{when}/retrieval": fmean(found.values())}

    figures = measure(load_model(init), "before")
    model = load_model(init, rope_scaling=params.rope_scaling)
    muonclip = MuonClip(model, optimizer)
    load_optimizer(muonclip, init)
    _, trained = run_phase(
        params, model, muonclip, TrainerState.load(init), tokens=tokens, seed=compute.seed, job=job, plot=plot, out=out
    )
    save_model(model, out)
    figures |= measure(model, "after")
    short = {
        name.replace("after/bits_per_byte_short", "heldout/bits_per_byte"): value
        for name, value in figures.items()
        if name.startswith("after/bits_per_byte_short")
    }
    return short | figures | trained


if __name__ == "__main__":
    main(run, SECTION)
