"""torchtitan: its Kimi K2 text tower with DistMuon. Names read in the wheel, models/kimi_k2_7/config_registry.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2core.recipe import RecipeError

if TYPE_CHECKING:
    from k2core.planning.export import Exported

REFERENCE = "torchtitan 0.3.0 (PyPI, 2026-09)"

HEAD = '''"""Pre-training of {recipe} for {reference}, by `python -m k2core.planning.export`.

    torchrun … -m torchtitan.train --module PACKAGE --config stable

It was never run there. `dataloader` is torchtitan's own C4: put your shards in its place.
"""

from torchtitan.components.checkpoint import CheckpointManager
from torchtitan.components.loss import ChunkedLossWrapper, CrossEntropyLoss
from torchtitan.components.optimizer import LRSchedulersContainer, register_moe_load_balancing_hook
from torchtitan.config import ParallelismConfig, TrainingConfig
from torchtitan.distributed.activation_checkpoint import FullAC
from torchtitan.distributed.pipeline_parallel import pipeline_vlm
from torchtitan.hf_datasets.text_datasets import HuggingFaceTextDataLoader
from torchtitan.models.common import ComplexRoPE, Embedding, Linear, RMSNorm
from torchtitan.models.common.config_utils import decoder_vocab_size
from torchtitan.models.kimi_k2_7 import (
    KimiK25Model,
    KimiK25StateDictAdapter,
    _build_kimi_layers,
    _EMBEDDING_INIT,
    _NORM_INIT,
    _output_linear_init,
    parallelize_kimi_k2_5,
)
from torchtitan.models.kimi_k2_7.config_registry import _dist_muon_optimizer, _KimiTrainerConfig
from torchtitan.protocols.model_spec import ModelSpec
from torchtitan.trainer import Trainer

'''
BODY = '''

def model(max_seq_len: int, rope: dict) -> KimiK25Model.Config:
    """The text tower, without vision."""
    dim, vocab = LAYERS["dim"], VOCABULARY
    rope = ComplexRoPE.Config(dim=LAYERS["qk_rope_head_dim"], max_seq_len=max_seq_len, theta=THETA, **rope)
    layers = _build_kimi_layers(
        **LAYERS, rope=rope, attn_backend="flex", moe_comm_backend="standard", non_blocking_capacity_factor=None
    )
    return KimiK25Model.Config(
        vocab_size=vocab,
        dim=dim,
        tok_embeddings=Embedding.Config(num_embeddings=vocab, embedding_dim=dim, param_init=_EMBEDDING_INIT),
        norm=RMSNorm.Config(normalized_shape=dim, param_init=_NORM_INIT),
        lm_head=Linear.Config(in_features=dim, out_features=vocab, param_init=_output_linear_init(dim)),
        layers=layers,
        vision_encoder=None,
    )


def trainer(name: str) -> Trainer.Config:
    """The configuration of one phase."""
    phase = PHASES[name]
    spec = ModelSpec(
        name="kimi_k2_5",
        flavor=name,
        model=model(phase["training"]["seq_len"], phase["rope"]),
        parallelize_fn=parallelize_kimi_k2_5,
        pipelining_fn=pipeline_vlm,
        post_optimizer_build_fn=register_moe_load_balancing_hook,
        state_dict_adapter=KimiK25StateDictAdapter,
    )
    loss = CrossEntropyLoss.Config(global_vocab_size=decoder_vocab_size(spec))
    return _KimiTrainerConfig(
        loss=ChunkedLossWrapper.Config(loss_fn=loss),
        hf_assets_path="./assets/hf/k2",
        model_spec=spec,
        dataloader=HuggingFaceTextDataLoader.Config(dataset="c4"),
        optimizer=_dist_muon_optimizer(spec, lr=phase["lr"]),
        lr_scheduler=LRSchedulersContainer.Config(**phase["schedule"]),
        training=TrainingConfig(**phase["training"], disable_cuda_graphs=True),
        parallelism=ParallelismConfig(**PARALLELISM, spmd_backend="spmd_types"),
        checkpoint=CheckpointManager.Config(interval=phase["checkpoint_every"]),
        activation_checkpoint=FullAC.Config(),
    )
'''


def source(found: Exported) -> str:
    """`config_registry.py`.

    Raises:
        RecipeError: it has no such model.
    """
    from k2core.planning.export import literal

    own = found.parallel.model_copy(update={"pipeline": 1, "virtual": 1})
    config = next(iter(found.phases.values()))[1]
    if config.first_k_dense_replace != 1 or config.attention != "mla":
        raise RecipeError("its DistMuon takes a model with multi-head latent attention and one dense layer")
    queries, latents = config.latent_ranks
    layers = {
        "n_layers": config.num_hidden_layers, "n_dense_layers": 1, "dim": config.hidden_size,
        "n_heads": config.num_attention_heads, "q_lora_rank": queries, "kv_lora_rank": latents,
        "qk_nope_head_dim": config.qk_nope_head_dim, "qk_rope_head_dim": config.qk_rope_head_dim,
        "v_head_dim": config.v_head_dim, "mscale": 1.0, "dense_hidden_dim": config.intermediate_size,
        "moe_hidden_dim": config.moe_intermediate_size, "num_experts": config.n_routed_experts,
        "num_shared_experts": config.n_shared_experts, "router_top_k": config.num_experts_per_tok,
        "router_score_func": "sigmoid", "router_route_scale": config.routed_scaling_factor, "router_route_norm": True,
    }  # fmt: skip
    parallelism = {
        "data_parallel_replicate_degree": own.replicas, "data_parallel_shard_degree": own.shards,
        "expert_parallel_degree": own.experts,
    }  # fmt: skip
    phases: dict[str, object] = {}
    for name, (phase, model) in found.phases.items():
        rows, at_once = found.rows(phase, shared=1)
        schedule, yarn = phase.schedule, model.rope_scaling
        rope = yarn and {
            "scaling": "yarn", "rope_factor": yarn.factor, "beta_fast": yarn.beta_fast, "beta_slow": yarn.beta_slow,
            "original_seq_len": yarn.original_max_position_embeddings,
        }  # fmt: skip
        phases[name] = {
            "training": {
                "local_batch_size": at_once, "global_batch_size": rows, "seq_len": phase.context_length,
                "steps": phase.steps, "max_norm": found.optimizer.max_grad_norm,
            },
            "lr": found.optimizer.muon_lr * schedule.lr_start, "rope": rope or {},
            "schedule": {
                "warmup_steps": schedule.warmup_steps, "decay_type": "linear" if schedule.kind == "constant" else
                schedule.kind, "min_lr_factor": schedule.lr_end / schedule.lr_start,
            },
            "checkpoint_every": phase.checkpoint_every,
        }  # fmt: skip
    values = [
        literal(layers, "LAYERS"), f"VOCABULARY, THETA = {config.vocab_size}, {config.rope_theta}\n",
        literal(parallelism, "PARALLELISM"), literal(phases, "PHASES"),
    ]  # fmt: skip
    functions = [f'\n\ndef {name}() -> Trainer.Config:\n    return trainer("{name}")\n' for name in phases]
    head = HEAD.format(recipe=found.recipe, reference=REFERENCE)
    return head + "".join(values) + BODY + "".join(functions)


def lost(found: Exported) -> list[str]:
    """What it does not take over."""
    own, optimizer = found.parallel, found.optimizer
    lines = [
        f"QK-Clip (τ {optimizer.qk_clip_threshold:g}): only on torchtitan's main branch",
        "Muon over whole matrices: its DistMuon orthogonalises each head of wq_b and wkv_b alone",
        "the momentum, decay and epsilon of the optimisers: its own are 0.95, 0.1 and 1e-8",
        "the step of the router biases, mixtures, the order of documents, spikes, and the hand-over between phases",
    ]
    if optimizer.adamw_lr != optimizer.muon_lr:
        lines.append(f"optimizer.adamw_lr {optimizer.adamw_lr:g}: all parameters have the matrices' rate")
    if not own.recompute:
        lines.append("parallel.recompute false: every layer is recomputed")
    if own.pipeline > 1:
        lines.append(f"parallel.pipeline {own.pipeline}: its DistMuon takes none; all ranks share every layer out")
    if own.context > 1:
        lines.append(f"parallel.context {own.context}: its Kimi model shares no rows")
    return lines
