"""YaRN context extension: switch the rotary scaling, train shortly on longer rows, measure what it brings (K2 §2.5).

Four models are measured (`k2core/evals/long_context.py`): `before` as it came, beyond its context; `yarn` with the
scaling switched on but not trained; `after` with both; and `without_yarn`, trained alike on the same rows with the
scaling off.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from k2core.machine import Compute
from k2core.model.config import YarnConfig
from k2core.optim.config import MuonClipConfig
from k2core.stage import Job, Metrics, StageError, main
from k2core.training.checkpoint import CheckpointConfig
from k2core.training.config import ParallelConfig
from k2core.training.phase import TrainerState, run_phase
from k2core.training.phases import Extension
from k2core.training.spikes import SpikeConfig

SECTION = "extend_context"


def run(
    params: Extension, optimizer: MuonClipConfig, compute: Compute, parallel: ParallelConfig, spikes: SpikeConfig,
    checkpoint: CheckpointConfig, init: Path, tokens: Path, out: Path, plot: Path, job: Job,
) -> Metrics:  # fmt: skip
    """Extend the context of `init`; `out` has no optimiser state, nothing goes on from it."""
    compute.apply()
    from k2core.evals.long_context import LongContext
    from k2core.evals.retrieval import CANDIDATES
    from k2core.model.files import load_model, save_model
    from k2core.optim.muonclip import MuonClip
    from k2core.training.checkpoint import load_optimizer
    from k2core.training.ranks import joined

    if params.context_length != params.rope_scaling.context:
        raise StageError(
            f"extend_context.context_length is {params.context_length}, but rope_scaling reaches "
            f"{params.rope_scaling.context} (factor × original context); make them equal"
        )
    probes = LongContext(
        tokens, short=params.heldout_context, long=params.context_length,
        lengths=params.lengths, needles=params.retrieval_samples, passages=params.copy_samples, seed=compute.seed,
    )  # fmt: skip

    def trained(model: Any, job: Job, plot: Path, out: Path) -> Metrics:
        muonclip = MuonClip(model, optimizer)
        load_optimizer(muonclip, init)
        _, figures = run_phase(
            params, model, muonclip, TrainerState.load(init), tokens=tokens, seed=compute.seed, job=job, plot=plot,
            out=out, spikes=spikes, checkpoint=checkpoint, ranks=ranks, micro_batch_tokens=parallel.micro_batch_tokens,
        )  # fmt: skip
        return figures

    nats_WK = {}

    def measured(model: Any, when: str) -> Metrics:
        job.say(f"measuring the model {when}: loss by position, needles and passages in {params.lengths} tokens")
        figures, nats_WK[when] = probes.measure(ranks.whole_rows(model))
        if when != "before":
            figures |= probes.saved(nats_WK["before"], nats_WK[when])
        return {f"{when}/{name}": value for name, value in figures.items()}

    def spread(rope_scaling: YarnConfig | None, reach: int | None = None) -> Any:
        """`init` with this scaling, for contexts of `reach` tokens, on all processes."""
        model = load_model(init, rope_scaling=rope_scaling)
        if reach:
            model.config = model.config.model_copy(update={"max_position_embeddings": reach})
        ranks.spread(model, parallel)
        return model

    with joined(parallel) as ranks:
        figures = measured(spread(None), "before")
        model = spread(params.rope_scaling)
        figures |= measured(model, "yarn")
        training = trained(model, job, plot, out)
        save_model(model, out)
        figures |= measured(model, "after")
        if params.control:
            job.say("the same training without YaRN, as a control")
            scratch = job.scratch / "without_yarn"
            scratch.mkdir(exist_ok=True)
            control = spread(None, reach=params.context_length)
            quiet = Job(f"{job.name}, without YaRN", scratch, None, job.fingerprint)
            trained(control, quiet, scratch / "plot.csv", scratch)
            figures |= measured(control, "without_yarn")
            saved = probes.saved(nats_WK["without_yarn"], nats_WK["after"])
            figures |= {f"after_over_without_yarn/{name}": value for name, value in saved.items()}
    short = {
        name.replace("after/bits_per_byte_short", "heldout/bits_per_byte"): value
        for name, value in figures.items()
        if name.startswith("after/bits_per_byte_short")
    }
    samples = {
        "samples/windows": float(len(nats_WK["after"])), "samples/needles_a_cell": float(params.retrieval_samples),
        "samples/needle_chance": 1 / CANDIDATES, "samples/passages": float(params.copy_samples),
    }  # fmt: skip
    return short | figures | samples | training


if __name__ == "__main__":
    main(run, SECTION)
