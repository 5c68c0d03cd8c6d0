"""Every stage that computes, for a few steps at the micro recipe; and a training that dies and goes on.

The stages `pretrain` and `extend_context` run as they are; of the others, whose dialogues need a tokenizer and the gym,
the training that they start.
"""

from __future__ import annotations

import math
from contextlib import nullcontext, suppress
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import torch

from benchmarks.gpu.findings import Findings
from benchmarks.gpu.models import MICRO, OPTIMIZER, Counting, Died, build
from k2core.data.mixture.selection import EVERYTHING
from k2core.data.rows.shards import TokenizedDocument, write_shards
from k2core.inference.rollouts import Prompt
from k2core.machine import Compute
from k2core.model.config import ModelConfig
from k2core.model.files import load_model, save_model
from k2core.optim.learning_rate import Schedule
from k2core.optim.muonclip import MuonClip
from k2core.recipe import load_section
from k2core.rl.config import RLConfig
from k2core.rl.curriculum import PrioritizedSampler
from k2core.rl.loop import PolicyTraining
from k2core.stage import Job
from k2core.training.checkpoint import CheckpointConfig
from k2core.training.config import ParallelConfig
from k2core.training.dialogues import Dialogue, DialogueSource
from k2core.training.fine_tuning import FineTuning, fine_tune
from k2core.training.heldout import bits_per_byte
from k2core.training.learner import Learner, TrainerState
from k2core.training.optimizer_state import save_optimizer
from k2core.training.phases import Extension, Phase
from k2core.training.setting import Setting
from k2core.training.settings import TrainingSettings
from k2core.training.spikes import SpikeConfig
from k2core.training.trainer import Plan, train

MODEL = load_section(ModelConfig, MICRO, "model")
SPIKES, CHECKPOINT = load_section(SpikeConfig, MICRO, "spikes"), load_section(CheckpointConfig, MICRO, "checkpoint")
PARALLEL = load_section(ParallelConfig, MICRO, "parallel")
FLAT = Schedule(kind="constant", lr_start=1.0, lr_end=1.0, warmup_steps=0)
END = 2


class Quiet(Job):
    """A job without a bar, which keeps what would go to MLflow."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(folder.name, folder, None)
        self.seen: list[dict[str, float]] = []

    def log(self, metrics: dict[str, float], step: int = 0) -> None:
        self.seen.append(metrics)

    def say(self, text: str) -> None: ...

    def progress(self, *_: Any, **__: Any) -> Any:
        return nullcontext(SimpleNamespace(update=lambda: None, set_postfix_str=lambda *_, **__: None))


def every_training(found: Findings, root: Path) -> None:
    """A finite loss of each, in bf16."""
    from stages import extend_context, pretrain, sft
    from stages.rl import Params as RL

    compute = load_section(Compute, MICRO, "compute").model_copy(
        update={"device": found.device.type, "precision": "bf16", "threads": torch.get_num_threads()}
    )
    _write_tokens(root / "tokens")
    few = {
        "batch_tokens": 512, "mixture": {"web": 1.0}, "select": EVERYTHING, "schedule": FLAT, "log_every": 2,
        "heldout_every": 4, "checkpoint_every": 2,
    }  # fmt: skip
    common = (PARALLEL, SPIKES, CHECKPOINT)
    with found.computing("bf16"):
        compute.apply()
        model = build(found, MODEL)
        save_model(model, root / "init")
        save_optimizer(MuonClip(model, OPTIMIZER), root / "init")
        TrainerState.fresh().save(root / "init")
        phase = load_section(Phase, MICRO, "pretrain", "stable").model_copy(update={**few, "tokens": 2048})
        figures = pretrain.run(
            phase, MODEL, OPTIMIZER, compute, *common, "stable", root / "init", root / "tokens", root / "base",
            root / "base.csv", Quiet(root / "pretrain"),
        )  # fmt: skip
        _trained(found, "pretrain", figures["train/loss"])
        extension = load_section(Extension, MICRO, "extend_context").model_copy(
            update={**few, "tokens": 2048, "control": False, "lengths": [128, 512], "retrieval_samples": 1,
                    "copy_samples": 1}
        )  # fmt: skip
        figures = extend_context.run(
            extension, OPTIMIZER, compute, *common, root / "base", root / "tokens", root / "long", root / "long.csv",
            Quiet(root / "extend_context"),
        )  # fmt: skip
        _trained(found, "extend_context", figures["train/loss"])
        tuning = load_section(sft.Params, MICRO, "sft").model_copy(update={"context": 64, "steps": 4})
        _trained(found, "sft and critic", _fine_tuned(tuning, root))
        rl = load_section(RL, MICRO, "rl").model_copy(
            update={"iterations": 2, "prompts": 4, "samples": 4, "context": 64, "critique_prompts": 0}
        )
        _trained(found, "rl", _reinforced(rl, root))
        bits = bits_per_byte(load_model(root / "base").on_cpu, root / "tokens", context=128)["all"]
        _trained(found, "evaluate", bits)


def _trained(found: Findings, stage: str, loss: float) -> None:
    found.note(f"{stage}, a few steps in bf16", loss, "loss", met=math.isfinite(loss))


def _write_tokens(folder: Path) -> None:
    random = Random(0)
    write_shards(
        folder,
        (
            TokenizedDocument(split, "web", [random.randrange(3, 500) for _ in range(600)], 600)
            for split in ["heldout"] * 12 + ["train"] * 28
        ),
        vocab_size=MODEL.vocab_size, eos_id=0,
    )  # fmt: skip


def _dialogues() -> DialogueSource:
    dialogues = [Dialogue([5, 6, n, n + 1, END], [0, 0, 0, 1, 1]) for n in range(10, 110)]
    return DialogueSource(dialogues, context=64, batch_rows=2, seed=0)


def _fine_tuned(settings: FineTuning, root: Path) -> float:
    setting = Setting(Quiet(root / "sft"), SPIKES, CHECKPOINT)
    return fine_tune(load_model(root / "base"), _dialogues(), settings, OPTIMIZER, setting, root / "sft.csv").loss


def _reinforced(config: RLConfig, root: Path) -> float:
    model = load_model(root / "base")
    prompts = [Prompt((5, 6, n), 8, lambda text: float(len(text) % 2)) for n in range(10, 14)]
    tokenizer: Any = SimpleNamespace(im_end_id=END, decode=str, decode_reply=lambda ids: "x" * len(ids))
    training = PolicyTraining(
        Learner(model, OPTIMIZER.with_rates(config.muon_lr, config.adamw_lr).build(model)), config,
        Setting(Quiet(root / "rl"), SPIKES, CHECKPOINT), 7,
        curriculum=PrioritizedSampler([0.5] * len(prompts), momentum=0.5, floor=0.05), tokenizer=tokenizer,
        prompts=prompts, ptx=_dialogues(),
    )  # fmt: skip
    training.run(root / "rl.csv")
    return training.history.rows[-1]["loss/ptx"]


class Steps(TrainingSettings):
    """So many steps at full rate."""

    steps: int

    def rates(self) -> Any:
        return FLAT.over(self.steps)


def resuming(found: Findings, root: Path) -> None:
    """A training that dies after its second checkpoint goes on to the same bits."""
    states = []
    for name, deaths in (("whole", [None]), ("killed", [5, None])):
        for dies_at in deaths:
            with found.computing("bf16"):
                model = build(found, MODEL)
                source = Counting(MODEL.vocab_size, 4, 64, dies_at)
                plan = Plan(source, Steps(steps=8, log_every=4, checkpoint_every=2))
                setting = Setting(Quiet(root / name), SPIKES, CHECKPOINT)
                optimizer = MuonClip(model, OPTIMIZER)
                with suppress(Died):
                    train(Learner(model, optimizer), plan, setting, root / f"{name}.csv")
        states.append({**model.state_dict(), **optimizer.state_dict()})
    differing = sum(not torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    found.note("resumed training", float(differing), "tensors differ", bound=0)
