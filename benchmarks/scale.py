"""How much is measured: the models, batches and rounds of a real run, and of a run that only tries the code."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.harness import ROOT
from k2core.machine.compute import Compute
from k2core.model.config import ModelConfig
from k2core.model.transformer import Transformer
from k2core.optim.kinds.muonclip import MuonClipConfig
from k2core.recipe.section import load_section

LAPTOP = ROOT / "recipes" / "laptop.yaml"


@dataclass(frozen=True)
class Scale:
    """Sizes of everything that is measured.

    Attributes:
        name: of the function here that makes it.
        models: by name. Training step and growth are measured on the first one, decoding and the update on the
            first two.
        rows: sequences of a training batch, of `context` tokens each.
        sequences: decoded at once, each `new_tokens` after a prompt of `prompt` tokens.
        rounds: pairs per measurement, at least, and `seconds` of it.
        growth: axis → its values (see growth.py).
        few_rounds: pairs of what takes long: a point of the growth curves, `torch.optim.Muon`.
        steps: of the training whose loop is measured.
        peak: rows and columns of the matrices whose product gives the machine's peak.
        threads: CPU threads.
        documents: sizes of the corpora that are deduplicated, ×1, ×4, ×16.
        pairs: planted near duplicates at each of `jaccards`.
        tasks: that the oracle plays, and `llm_tasks` the embedded LLM.
        articles: of which the fidelity gate's labelled pairs are made, and solved `problems`.
    """

    name: str
    models: dict[str, ModelConfig]
    optimizer: MuonClipConfig
    rows: int
    context: int
    sequences: int
    prompt: int
    new_tokens: int
    rounds: int
    seconds: float
    growth: dict[str, tuple[int, ...]]
    few_rounds: int
    steps: int
    peak: int
    threads: int
    documents: tuple[int, ...]
    pairs: int
    jaccards: tuple[float, ...]
    tasks: int
    llm_tasks: int
    articles: int
    problems: int

    def batch(self, config: ModelConfig) -> tuple[Tensor, Tensor]:
        """Random tokens and targets, each [rows, context]."""
        return random_batch(config, self.rows, self.context)


def full() -> Scale:
    """The laptop recipe's model and batch, and two larger models of K2's proportions."""
    laptop = load_section(ModelConfig, LAPTOP, "model")
    return Scale(
        name="full",
        models={
            "2M": laptop,
            "12M": laptop.model_copy(update={
                "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 768, "moe_intermediate_size": 128,
                "num_hidden_layers": 6, "num_attention_heads": 8, "q_lora_rank": 128, "kv_lora_rank": 64,
                "n_routed_experts": 16, "num_experts_per_tok": 4,
            }),
            "40M": laptop.model_copy(update={
                "vocab_size": 8192, "hidden_size": 384, "intermediate_size": 1152, "moe_intermediate_size": 192,
                "num_hidden_layers": 9, "num_attention_heads": 8, "q_lora_rank": 192, "kv_lora_rank": 96,
                "qk_nope_head_dim": 48, "qk_rope_head_dim": 24, "v_head_dim": 48, "n_routed_experts": 16,
                "num_experts_per_tok": 4,
            }),
        },
        optimizer=load_section(MuonClipConfig, LAPTOP, "optimizer"),
        rows=8, context=256, sequences=64, prompt=64, new_tokens=64, rounds=5, seconds=12.0,
        growth={"sequence length": (128, 256, 512, 1024), "experts": (4, 8, 16, 32), "batch": (1, 4, 16, 64)},
        few_rounds=3, steps=121, peak=2048,
        threads=load_section(Compute, LAPTOP, "compute").threads,
        documents=(600, 2400, 9600), pairs=2000,
        jaccards=(0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95),
        tasks=4000, llm_tasks=16, articles=110, problems=60,
    )  # fmt: skip


def smoke() -> Scale:
    """Everything in seconds; the figures mean nothing."""
    tiny = load_section(ModelConfig, LAPTOP, "model").model_copy(update={
        "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32, "moe_intermediate_size": 16,
        "num_hidden_layers": 2, "num_attention_heads": 2, "q_lora_rank": 16, "kv_lora_rank": 16,
        "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 4, "initializer_range": 0.2,
    })  # fmt: skip
    return Scale(
        name="smoke", models={"tiny": tiny}, optimizer=load_section(MuonClipConfig, LAPTOP, "optimizer"),
        rows=2, context=16, sequences=4, prompt=6, new_tokens=4, rounds=2, seconds=0.0,
        growth={"sequence length": (8, 16), "experts": (4, 8), "batch": (1, 2)}, few_rounds=1, steps=6, peak=32,
        threads=1, documents=(10, 40), pairs=8, jaccards=(0.5, 0.9), tasks=20, llm_tasks=1, articles=12,
        problems=8,
    )  # fmt: skip


def random_batch(config: ModelConfig, rows: int, context: int) -> tuple[Tensor, Tensor]:
    """Random tokens and the ones after them, each [rows, context]."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(config.vocab_size, (rows, context + 1), generator=generator)
    return tokens[:, :-1], tokens[:, 1:]


def build(config: ModelConfig) -> Transformer:
    """Our model with seeded random weights."""
    torch.manual_seed(1)
    return Transformer(config)
