"""Megatron-Bridge: its DeepSeek-V3 bridge with dist_muon and QK-Clip. Names read in recipes/kimi/h100/kimi_k2.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2core.training.dividing import check_model
from k2core.training.pieces import layers_of

if TYPE_CHECKING:
    from k2core.planning.export import Exported

REFERENCE = "Megatron-Bridge 0.6 (2026-09)"

HEAD = '''"""Pre-training of {recipe} for {reference}, by `python -m k2core.planning.export`.

    from megatron.bridge.training.pretrain import pretrain
    from megatron.bridge.training.gpt_step import forward_step
    pretrain(stable(), forward_step)

It was never run there. `dataset.blend` is mock data: put your .bin/.idx files in its place.
"""

from pathlib import Path

import torch
from megatron.bridge import AutoBridge
from megatron.bridge.recipes.common import _pretrain_common
from megatron.bridge.recipes.utils.optimizer_utils import distributed_muon_with_cosine_annealing
from megatron.bridge.training.config import ConfigContainer
from megatron.bridge.training.mixed_precision import MixedPrecisionConfig

'''
BODY = '''

def config(name: str) -> ConfigContainer:
    """The configuration of one phase; the model's shape is in NAME/config.json."""
    phase, cfg = PHASES[name], _pretrain_common()
    bridge = AutoBridge.from_hf_pretrained(str(Path(__file__).parent / name))
    cfg.model = bridge.to_megatron_provider(load_weights=False)
    for key, value in {**MODEL, **phase["model"]}.items():
        setattr(cfg.model, key, value)
    cfg.model.pipeline_dtype = torch.bfloat16
    cfg.tokenizer.tokenizer_type = "NullTokenizer"
    cfg.tokenizer.tokenizer_model = None
    cfg.tokenizer.vocab_size = cfg.model.vocab_size
    cfg.dataset.blend = None
    cfg.dataset.seq_length = phase["model"]["seq_length"]
    for key, value in phase["train"].items():
        setattr(cfg.train, key, value)
    cfg.optimizer, cfg.scheduler = distributed_muon_with_cosine_annealing(**OPTIMIZER, **phase["schedule"])
    cfg.optimizer.muon_extra_scale_factor = 0.2  # an update's RMS as of AdamW (Moonlight)
    cfg.scheduler.lr_decay_style = phase["lr_decay_style"]
    cfg.scheduler.start_weight_decay = cfg.scheduler.end_weight_decay = OPTIMIZER["weight_decay"]
    cfg.mixed_precision = MixedPrecisionConfig(
        bf16=True, params_dtype=torch.bfloat16, pipeline_dtype=torch.bfloat16, autocast_enabled=False,
        grad_reduce_in_fp32=True,
    )
    cfg.ddp.use_distributed_optimizer = False
    cfg.ddp.overlap_param_gather = False
    cfg.ddp.grad_reduce_in_fp32 = True
    cfg.checkpoint.save_interval = phase["checkpoint_every"]
    return cfg
'''


def source(found: Exported) -> str:
    """`config_registry.py`.

    Raises:
        DoesNotDivide: the recipe's mesh does not fit the model.
    """
    from k2core.planning.export import literal

    own, optimizer, config = found.parallel, found.optimizer, next(iter(found.phases.values()))[1]
    check_model(own, config)
    layout = None
    if own.pipeline > 1:
        pieces = own.pipeline * own.virtual
        sizes = [len(layers_of(config.num_hidden_layers, pieces, number)) for number in range(pieces)]
        layout = [["decoder"] * size for size in sizes]
        layout = [["embedding", *layout[0]], *layout[1:-1], [*layout[-1], "loss"]]
    model = {
        "tensor_model_parallel_size": 1, "expert_tensor_parallel_size": 1, "sequence_parallel": False,
        "pipeline_model_parallel_size": own.pipeline,
        "virtual_pipeline_model_parallel_size": own.virtual if own.virtual > 1 else None,
        "pipeline_model_parallel_layout": layout, "context_parallel_size": own.context,
        "expert_model_parallel_size": own.experts, "moe_token_dispatcher_type": "alltoall",
        "moe_router_load_balancing_type": "none", "moe_aux_loss_coeff": 0.0, "moe_router_enable_expert_bias": True,
        "moe_router_bias_update_rate": optimizer.router_bias_rate, "qk_clip": True, "qk_clip_alpha": 0.5,
        "qk_clip_threshold": optimizer.qk_clip_threshold, "init_method_std": config.initializer_range,
        "make_vocab_size_divisible_by": 1, "mtp_num_layers": None,
    }  # fmt: skip
    if own.recompute:
        model |= {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}
    rates = {
        "muon_momentum": optimizer.momentum, "muon_use_nesterov": True, "muon_num_ns_steps": 5,
        "weight_decay": optimizer.weight_decay, "clip_grad": optimizer.max_grad_norm,
    }  # fmt: skip
    phases: dict[str, object] = {}
    for name, (phase, _) in found.phases.items():
        rows, at_once = found.rows(phase, own.context)
        phases[name] = {
            "model": {"seq_length": phase.context_length},
            "train": {"train_iters": phase.steps, "global_batch_size": rows, "micro_batch_size": at_once},
            "schedule": {
                "lr_warmup_iters": phase.schedule.warmup_steps, "lr_decay_iters": phase.steps,
                "max_lr": optimizer.muon_lr * phase.schedule.lr_start,
                "min_lr": optimizer.muon_lr * phase.schedule.lr_end,
            },
            "lr_decay_style": phase.schedule.kind, "checkpoint_every": phase.checkpoint_every,
        }  # fmt: skip
    values = [literal(model, "MODEL"), literal(rates, "OPTIMIZER"), literal(phases, "PHASES")]
    functions = [f'\n\ndef {name}() -> ConfigContainer:\n    return config("{name}")\n' for name in phases]
    head = HEAD.format(recipe=found.recipe, reference=REFERENCE)
    return head + "".join(values) + BODY + "".join(functions)


def lost(found: Exported) -> list[str]:
    """What it does not take over."""
    optimizer = found.optimizer
    lines = ["mixtures, the order of documents, spikes, and the hand-over between phases"]
    if optimizer.adamw_lr != optimizer.muon_lr:
        lines.append(f"optimizer.adamw_lr {optimizer.adamw_lr:g}: embedding, head and norms have the matrices' rate")
    if optimizer.per_head:
        lines.append("optimizer.per_head")
    return lines
