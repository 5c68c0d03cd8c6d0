"""One pre-training phase with MuonClip: from fresh weights, or on from the phase before (K2 §2.1, 2.5).

Weights, optimiser state, router biases, token counts and the place in each domain's documents carry over from phase to
phase; the learning rate has no jump at a seam.
"""

from __future__ import annotations

from pathlib import Path

from k2core.model.config import ModelConfig
from k2core.optim.config import MuonClipConfig
from k2core.recipe import Compute
from k2core.stage import Job, Metrics, StageError, main
from k2core.training.phase import Phase, TrainerState, check_vocabulary, run_phase

SECTION = "pretrain.{phase}"


def run(
    params: Phase, model: ModelConfig, optimizer: MuonClipConfig, compute: Compute, phase: str, init: Path,
    tokens: Path, out: Path, plot: Path, job: Job,
) -> Metrics:  # fmt: skip
    """Train phase `phase`; figures are held-out bits per byte and what the training reports."""
    compute.apply()
    from k2core.chat.tokenizer import Tokenizer
    from k2core.corpus.heldout import bits_per_byte, figure_names
    from k2core.model.files import load_model, save_model
    from k2core.model.transformer import Transformer
    from k2core.optim.muonclip import MuonClip
    from k2core.training.checkpoint import load_optimizer, save_optimizer

    def heldout(context: int, name: str) -> Metrics:
        values = bits_per_byte(network, tokens, context=context, max_tokens=params.heldout_tokens)
        return figure_names(values, name)

    figures: Metrics = {}
    if (init / "tokenizer.json").exists():
        check_vocabulary(Tokenizer.load(init).vocab_size, model.vocab_size, init)
        job.say(f"phase {phase}: fresh weights (seed {compute.seed})")
        network, before = Transformer(model), TrainerState.fresh()
        muonclip = MuonClip(network, optimizer)
        figures |= heldout(params.heldout_context, "heldout/bits_per_byte_before")
    else:
        network, before = load_model(init), TrainerState.load(init)
        if network.config != model:
            raise StageError(f"{init} has another shape than section model; run the phases from the first on")
        job.say(f"phase {phase}: on from {init} after {before.tokens_seen:,} tokens")
        muonclip = MuonClip(network, optimizer)
        load_optimizer(muonclip, init)
    after, trained = run_phase(
        params, network, muonclip, before, tokens=tokens, seed=compute.seed, job=job, plot=plot, out=out
    )  # fmt: skip
    save_model(network, out)
    save_optimizer(muonclip, out)
    after.save(out)
    figures |= heldout(params.heldout_context, "heldout/bits_per_byte")
    if params.context_length != params.heldout_context:
        figures |= heldout(params.context_length, "heldout/bits_per_byte_own_context")
    return figures | trained


if __name__ == "__main__":
    main(run, SECTION)
