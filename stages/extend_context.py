"""YaRN context extension: switch the rotary scaling, train shortly on longer rows, measure what it brings (K2 §2.5).

Four models are measured (`k2core/evals/long_context.py`): `before`, which is `init` beyond its context; `yarn` with the
scaling switched on but not trained; `after` with both; and `without_yarn`, trained alike on the same rows with the
scaling off.

Shapes: K buckets of positions, W windows.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from k2core.machine import Compute
from k2core.model.config import YarnConfig
from k2core.optim.optimizer import OptimizerConfig
from k2core.stage import Job, Metrics, StageError, main
from k2core.training.checkpoint import CheckpointConfig
from k2core.training.config import ParallelConfig
from k2core.training.learner import Learner, TrainerState
from k2core.training.phase import run_phase
from k2core.training.phases import Extension
from k2core.training.spikes import SpikeConfig

if TYPE_CHECKING:
    import numpy as np

    from k2core.model.transformer import Transformer

SECTION = "extend_context"


def run(
    params: Extension, optimizer: OptimizerConfig, compute: Compute, parallel: ParallelConfig, spikes: SpikeConfig,
    checkpoint: CheckpointConfig, init: Path, tokens: Path, out: Path, plot: Path, job: Job,
) -> Metrics:  # fmt: skip
    """Extend the context of `init`; `out` has no optimiser state, since nothing goes on from it."""
    compute.apply()
    parallel = parallel.of(SECTION)
    from k2core.evals.long_context import LongContext
    from k2core.evals.retrieval import CANDIDATES
    from k2core.model.files import save_model
    from k2core.training.heldout import FIGURE
    from k2core.training.optimizer_state import load_optimizer
    from k2core.training.ranks import joined
    from k2core.training.setting import Setting

    if params.context_length != params.rope_scaling.context:
        raise StageError(
            f"extend_context.context_length is {params.context_length}, but rope_scaling reaches "
            f"{params.rope_scaling.context} (factor × original context); make them equal"
        )
    probes = LongContext(
        tokens, short=params.heldout_context, long=params.context_length,
        lengths=params.lengths, needles=params.retrieval_samples, passages=params.copy_samples, seed=compute.seed,
    )  # fmt: skip

    def trained(model: Transformer, job: Job, plot: Path, out: Path) -> Metrics:
        learner = Learner(model, optimizer.build(model), TrainerState.load(init))
        load_optimizer(learner.optimizer, init)
        setting = Setting(job, spikes, checkpoint, ranks, parallel.micro_batch_tokens)
        return run_phase(params, learner, setting, tokens=tokens, seed=compute.seed, plot=plot, out=out)[1]

    nats_WK: dict[str, np.ndarray] = {}

    def measured(model: Transformer, when: str) -> Metrics:
        job.say(f"measuring the model {when}: loss by position, needles and passages in {params.lengths} tokens")
        figures, nats_WK[when] = probes.measure(ranks.whole_rows(model))
        if when != "before":
            figures |= probes.saved(nats_WK["before"], nats_WK[when])
        return {f"{when}/{name}": value for name, value in figures.items()}

    def spread(rope_scaling: YarnConfig | None, reach: int | None = None) -> Transformer:
        """`init` with this scaling, for contexts of `reach` tokens, on all processes."""
        model = ranks.load(init, parallel, rope_scaling)
        if reach:
            model.config = model.config.model_copy(update={"max_position_embeddings": reach})
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
    heldout = {name: value for name, value in training.items() if name.startswith(FIGURE)}
    samples = {
        "samples/windows": float(len(nats_WK["after"])), "samples/needles_a_cell": float(params.retrieval_samples),
        "samples/needle_chance": 1 / CANDIDATES, "samples/passages": float(params.copy_samples),
    }  # fmt: skip
    return heldout | figures | samples | training


if __name__ == "__main__":
    main(run, SECTION)
