"""One training of one arm: writes shards of its texts, trains a phase from the base on them, and scores the result."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.calibration import formats, joint
from experiments.articles import Material
from experiments.scoring import score
from experiments.settings import Settings
from k2core.data.mixture.selection import EVERYTHING
from k2core.machine import Compute
from k2core.optim.optimizer import OptimizerConfig
from k2core.stage import Job
from k2core.training.checkpoint import CheckpointConfig
from k2core.training.learner import Learner, TrainerState
from k2core.training.phase import run_phase
from k2core.training.phases import Phase
from k2core.training.spikes import SpikeConfig

if TYPE_CHECKING:
    from k2core.chat.tokenizer import Tokenizer

BASE = "base"
ARTICLES, FORM, HELDOUT = "articles", "form", "heldout_articles"
"""Domains of an arm's shards: what is learnt (held out: the source texts), the form of questions, other articles."""

NO_COPIES = CheckpointConfig(keep=1, permanent_every=0, mirror="", resume_from="", accept=[])
"""An arm takes a minute: it is trained anew after a kill."""


@dataclass(frozen=True)
class Trainer:
    """What all arms share: the base, the recipe's optimiser, and the sizes."""

    base: Path
    tokenizer: Path
    optimizer: OptimizerConfig
    spikes: SpikeConfig
    compute: Compute
    micro_batch_tokens: int
    settings: Settings

    def run(self, material: Material, arm: str, seed: int) -> dict[str, Any]:
        """Train `arm` (nothing for `base`) and score it: for each question `correct` and `bits`, and `figures`."""
        from k2core.chat.tokenizer import Tokenizer
        from k2core.model.files import load_model
        from k2core.training.heldout import bits_per_byte, figure_names
        from k2core.training.phase import check_vocabulary

        self.compute.apply()
        tokenizer = Tokenizer.load(self.tokenizer)
        network = load_model(self.base)
        check_vocabulary(tokenizer.vocab_size, network.config.vocab_size, self.tokenizer)
        started = time.monotonic()
        with TemporaryDirectory() as folder:
            shards = Path(folder) / "tokens"
            texts = arm_texts(material, "raw" if arm == BASE else arm, seed)
            phase = self._phase(_write(shards, texts, material, tokenizer), material, tokenizer)
            if arm == BASE:
                figures = figure_names(bits_per_byte(network.on_cpu, shards, context=self.settings.context_length))
            else:
                figures = self._train(network, phase, shards, seed, Path(folder), f"table1 {arm}, seed {seed}")
        seconds = time.monotonic() - started
        items = [item for article in material.articles for item in article.items]
        correct, bits = score(network.on_cpu, tokenizer, items)
        return {"arm": arm, "seed": seed, "correct": correct, "bits": bits, "figures": figures, "seconds": seconds}

    def _phase(self, form_tokens: int, material: Material, tokenizer: Tokenizer) -> Phase:
        settings = self.settings
        raw = sum(len(ids) + 1 for ids in tokenizer.encode_batch([article.text for article in material.articles]))
        share = settings.form_share if form_tokens else 0.0
        batches = max(1, round(settings.epochs * raw / (1 - share) / settings.batch_tokens))
        mixture = {ARTICLES: 1 - share, FORM: share} if share else {ARTICLES: 1.0}
        schedule = {
            "kind": "constant", "lr_start": settings.lr, "lr_end": settings.lr, "warmup_steps": settings.warmup_steps,
        }  # fmt: skip
        return Phase(
            tokens=batches * settings.batch_tokens, batch_tokens=settings.batch_tokens,
            context_length=settings.context_length, schedule=schedule, mixture=mixture, select=EVERYTHING,
            log_every=batches, checkpoint_every=batches, heldout_every=batches, heldout_context=settings.context_length,
        )  # fmt: skip

    def _train(self, network: Any, phase: Phase, shards: Path, seed: int, folder: Path, what: str) -> dict[str, float]:
        from k2core.training.optimizer_state import load_optimizer
        from k2core.training.setting import Setting

        (folder / "work").mkdir()
        state = TrainerState.load(self.base).model_copy(update={"documents": {}, "lr_scale": None})
        learner = Learner(network, self.optimizer.build(network), state)
        load_optimizer(learner.optimizer, self.base)
        job = Job(what, folder / "work", None)
        setting = Setting(job, self.spikes, NO_COPIES, micro_batch_tokens=self.micro_batch_tokens)
        _, figures = run_phase(
            phase, learner, setting, tokens=shards, seed=seed, plot=folder / "plot.csv", out=folder / "out"
        )
        kept = ("heldout/", "train/", "mixture/", "packing/padding", "spike/")
        return {name: value for name, value in figures.items() if name.startswith(kept)}


def arm_texts(material: Material, arm: str, seed: int) -> list[str]:
    """The texts of an arm's epoch; the arm of a format has all rephrasings, put into it by rule.

    `joint` puts each of them into questions together with the article that the first one names.

    `one_rephrasing` takes another version of each article in turn and by seed, so that it sees every way of rephrasing
    as often as `all_rephrasings`: what differs is how many an article has.
    """
    if arm == "raw":
        return [article.text for article in material.articles]
    if arm == "one_rephrasing":
        return [a.versions[(place + seed) % len(a.versions)] for place, a in enumerate(material.articles)]
    numbered = [(a.title, number, version) for a in material.articles for number, version in enumerate(a.versions)]
    if arm == "all_rephrasings":
        return [version for _, _, version in numbered]
    if arm == "joint":
        return [joint.put_whole(a.title, version, *a.linked) for a in material.articles for version in a.versions]
    return [formats.put(arm, title, version, number) for title, number, version in numbered]


def _write(folder: Path, texts: Sequence[str], material: Material, tokenizer: Tokenizer) -> int:
    """Write an arm's shards; the tokens of the form."""
    from k2core.data.rows.shards import TokenizedDocument, write_shards

    sources = [article.text for article in material.articles]
    parts = [
        ("train", ARTICLES, texts), ("train", FORM, material.form),
        ("heldout", ARTICLES, sources), ("heldout", HELDOUT, material.heldout),
    ]  # fmt: skip
    documents = (
        TokenizedDocument(split, domain, ids, len(text.encode()))
        for split, domain, of_domain in parts
        for text, ids in zip(of_domain, tokenizer.encode_batch(list(of_domain)), strict=True)
    )
    manifest = write_shards(folder, documents, vocab_size=tokenizer.vocab_size, eos_id=tokenizer.eos_id)
    return manifest["train"].get(FORM, {}).get("tokens", 0)
