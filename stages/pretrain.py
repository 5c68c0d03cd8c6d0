"""One pre-training phase with MuonClip: from fresh weights, or continuing the previous phase (K2 §2.1, 2.5).

Weights, optimiser state, router biases, token counts and the place in each domain's documents carry over from phase to
phase; the learning rate has no jump at a seam.
"""

from __future__ import annotations

from pathlib import Path

from k2core.machine import Compute
from k2core.model.config import ModelConfig
from k2core.optim.optimizer import OptimizerConfig
from k2core.stage import Job, Metrics, StageError, main
from k2core.training.checkpoint import CheckpointConfig
from k2core.training.config import ParallelConfig
from k2core.training.learner import Learner, TrainerState
from k2core.training.phase import check_vocabulary, run_phase
from k2core.training.phases import Phase
from k2core.training.spikes import SpikeConfig

SECTION = "pretrain.{phase}"


def run(
    params: Phase, model: ModelConfig, optimizer: OptimizerConfig, compute: Compute, parallel: ParallelConfig,
    spikes: SpikeConfig, checkpoint: CheckpointConfig, phase: str, init: Path, tokens: Path, out: Path, plot: Path,
    job: Job,
) -> Metrics:  # fmt: skip
    """Train phase `phase`; figures are held-out bits per byte, copying, and what the training reports."""
    compute.apply()
    parallel = parallel.of(f"pretrain@{phase}")
    from k2core.chat.tokenizer import Tokenizer
    from k2core.evals.copying import copying
    from k2core.model.files import read_config, save_model
    from k2core.training.heldout import bits_per_byte, figure_names
    from k2core.training.optimizer_state import load_optimizer, save_optimizer
    from k2core.training.ranks import joined
    from k2core.training.setting import Setting

    fresh = (init / "tokenizer.json").exists()
    if fresh:
        check_vocabulary(Tokenizer.load(init).vocab_size, model.vocab_size, init)
        job.say(f"phase {phase}: fresh weights (seed {compute.seed})")
        before = TrainerState.fresh()
    else:
        before = TrainerState.load(init)
        if read_config(init) != model:
            raise StageError(f"{init} differs in shape from section model; run the phases from the first on")
        job.say(f"phase {phase}: continues {init} after {before.tokens_seen:,} tokens")
    with joined(parallel) as ranks:
        network = ranks.fresh(model, parallel) if fresh else ranks.load(init, parallel)

        def heldout(context: int, name: str) -> Metrics:
            return figure_names(bits_per_byte(ranks.whole_rows(network), tokens, context=context), name)

        optimiser = optimizer.build(network)
        figures: Metrics = {}
        if fresh:
            figures |= heldout(params.heldout_context, "heldout/bits_per_byte_before")
        else:
            load_optimizer(optimiser, init)
        learner = Learner(network, optimiser, before)
        setting = Setting(job, spikes, checkpoint, ranks, parallel.micro_batch_tokens)
        after, trained = run_phase(params, learner, setting, tokens=tokens, seed=compute.seed, plot=plot, out=out)
        if params.context_length != params.heldout_context:
            figures |= heldout(params.context_length, "heldout/bits_per_byte_own_context")
        figures |= copying(ranks.whole_rows(network), tokens, context=params.heldout_context, seed=compute.seed)
        save_model(network, out)
        save_optimizer(optimiser, out)
        after.save(out)
    return figures | trained


if __name__ == "__main__":
    main(run, SECTION)
