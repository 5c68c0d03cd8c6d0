"""MuonClip, K2's optimiser, as one object: Muon and AdamW, gradient clipping, QK-Clip, router balance (K2 §2.1).

Logged by `step`, a fixed set of names whatever the number of layers and experts:
`lr/adamw`, `optim/update_rms` (Muon's updates before the rate, about 0.2),
`qk_clip/max_logit` (largest of all heads; none in a step not `logged`, if the backend need not know it and none
exceeds τ), `qk_clip/heads_clipped` (number), `qk_clip/min_gamma`,
`moe/load_imbalance_max` (largest over layers of busiest expert / mean), `moe/router_entropy_mean` (entropy of the load
over ln E, mean over layers), `moe/bias_spread_max` (largest over layers of highest - lowest expert bias).

In several processes (`torch.distributed` with its default group) every process runs its share of the batch, and
parameters and gradients are DTensors split along their first axis (FSDP2, expert parallelism), the gradients being the
whole batch's. `step` then combines maxima by MAX and loads by SUM over the ranks, stages of a pipeline included; it
does and returns what one process with the whole batch would. It was run with gloo on CPU, not with NCCL on GPUs.

Shapes: H heads, L layers, E experts.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ReduceOp

from k2core.model.experts import MixtureOfExperts
from k2core.model.sharded import whole
from k2core.model.transformer import Transformer
from k2core.optim.kinds.muonclip import MuonClipConfig
from k2core.optim.muon import Muon
from k2core.optim.qk_clip import clip_factors, qk_clip
from k2core.optim.router_bias import update_router_bias
from k2core.optim.sharding import all_reduce, stacked

ADAMW_MATRICES = ("embed_tokens.weight", "lm_head.weight")
"""Matrices that are lookup tables rather than maps between hidden spaces: AdamW's, with everything below 2-D."""


class MuonClip:
    """Optimiser of a whole `Transformer`, which must be sharded before, if at all.

    From the last step it keeps `max_logit_LH` and `gamma_LH` (QK-Clip's S and γ, all layers), `load_LE` and `bias_LE`
    (choices of each expert and its bias after the step, layers that have experts; [0, 0] without). Of a pipeline too
    they are of all layers, and so are norm and figures; weights and state are this process's layers'.
    """

    def __init__(self, model: Transformer, config: MuonClipConfig) -> None:
        self.model, self.config, self.lr = model, config, config.muon_lr
        self.stages = model.stages
        self.parameters = dict(model.named_parameters())
        matrices = {n: p for n, p in self.parameters.items() if p.ndim > 1 and n not in ADAMW_MATRICES}
        others = [p for n, p in self.parameters.items() if n not in matrices]
        self.muon = Muon(
            matrices.items(),
            config.momentum,
            config.weight_decay,
            self._heads() if config.per_head else {},
            self.stages,
        )
        self.adamw = torch.optim.AdamW(
            [
                {"params": [p for p in others if p.ndim > 1], "weight_decay": config.weight_decay},
                {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=config.adamw_lr,
            betas=(config.adamw_beta1, config.adamw_beta2),
            eps=config.adamw_eps,
            fused=True,
        )
        self.reset_state()

    def _heads(self) -> dict[str, int]:
        """Heads of MLA's up-projections, whose rows are the heads' queries, and their keys and values."""
        heads = self.model.config.num_attention_heads
        return {n: heads for n in self.parameters if n.endswith(("q_b_proj.weight", "kv_b_proj.weight"))}

    def zero_grad(self, logged: bool = True) -> None:
        """Forget the gradients, and the maxima and counts that belong to them.

        Args:
            logged: the coming step's largest logits are all wanted; else only those that QK-Clip acts on.
        """
        self.model.logits_above = -math.inf if logged else self.config.qk_clip_threshold
        for parameter in self.parameters.values():
            parameter.grad = None
        self.model.forget()

    def gradient_norm(self) -> float:
        """The global norm of the gradient, before clipping.

        Raises:
            ValueError: a parameter has no gradient.
        """
        missing = [name for name, parameter in self.parameters.items() if parameter.grad is None]
        if missing:
            raise ValueError(f"no gradient for {missing[0]} ({len(missing)} parameters): call backward() before step()")
        by_mesh: dict[Any, list[Tensor]] = {}
        for gradient in self._gradients().values():
            by_mesh.setdefault(getattr(gradient, "device_mesh", None), []).append(gradient)
        norm = math.hypot(*(float(whole(torch.nn.utils.get_total_norm(each))) for each in by_mesh.values()))
        if self.stages is None:
            return norm
        square = torch.tensor(norm, dtype=torch.float64, device=self.model.device).square()
        all_reduce(square, ReduceOp.SUM, self.stages)
        return float(square.sqrt())

    def step(self, lr_scale: float, norm: float | None = None) -> dict[str, float]:
        """One update at `lr_scale` times the configured rates; returns what the module's docstring lists.

        Args:
            norm: `gradient_norm()`, if it is known already.

        Raises:
            ValueError: a parameter has no gradient.
            FloatingPointError: a gradient is not finite; no weight, state or bias has been touched.
        """
        norm = self.gradient_norm() if norm is None else norm
        self._refuse_infinite(norm)
        gradient_scale = min(1.0, self.config.max_grad_norm / (norm + 1e-6))
        muon_lr, adamw_lr = self.config.muon_lr * lr_scale, self.config.adamw_lr * lr_scale
        for group in self.adamw.param_groups:
            group["lr"] = adamw_lr
            if group["params"]:
                torch._foreach_mul_([parameter.grad for parameter in group["params"]], gradient_scale)
        self.adamw.step()
        update_rms = self.muon.step(muon_lr, gradient_scale)
        return {
            "lr/adamw": adamw_lr,
            "optim/update_rms": float(update_rms),
            **self._clip_attention(),
            **self._balance_experts(),
        }

    def _gradients(self) -> dict[str, Tensor]:
        return {name: parameter.grad for name, parameter in self.parameters.items() if parameter.grad is not None}

    def _refuse_infinite(self, norm: float) -> None:
        if math.isfinite(norm):
            return
        bad = [name for name, gradient in self._gradients().items() if not bool(whole(gradient.isfinite().all()))]
        if self.stages:
            found: list[list[str]] = [[]] * self.stages.size()
            dist.all_gather_object(found, bad, self.stages)
            bad = [name for names in found for name in names]
        raise FloatingPointError(
            f"the gradient is not finite (norm {norm}; {len(bad)} of {len(self.parameters)} parameters, first "
            f"{bad[0] if bad else 'none: the norm overflows'}); weights are as before: look at the batch, lower "
            "the learning rates, or lower qk_clip_threshold"
        )

    def _clip_attention(self) -> dict[str, float]:
        config, threshold = self.model.config, self.config.qk_clip_threshold
        seen = {layer.index: layer.self_attn.max_logit_H for layer in self.model.blocks()}
        unseen_H = torch.full((config.num_attention_heads,), -torch.inf, device=self.model.device)
        self.max_logit_LH = stacked(seen, range(config.num_hidden_layers), unseen_H)
        all_reduce(self.max_logit_LH, ReduceOp.MAX)
        self.gamma_LH = clip_factors(self.max_logit_LH, threshold)
        for layer in self.model.blocks():
            layer.self_attn.max_logit_H.copy_(self.max_logit_LH[layer.index])
            qk_clip(layer.self_attn, threshold)
        largest = float(self.max_logit_LH.max())
        figures = {
            "qk_clip/heads_clipped": float((self.gamma_LH < 1).sum()),
            "qk_clip/min_gamma": float(self.gamma_LH.min()),
        }
        return {"qk_clip/max_logit": largest, **figures} if math.isfinite(largest) else figures

    def _balance_experts(self) -> dict[str, float]:
        config = self.model.config
        layers = self.model.blocks()
        routers = {layer.index: mlp.gate for layer in layers if isinstance(mlp := layer.mlp, MixtureOfExperts)}
        numbers = range(config.first_k_dense_replace, config.num_hidden_layers)
        seen = {index: router.tokens_per_expert_E for index, router in routers.items()}
        none_E = torch.zeros(config.n_routed_experts, dtype=torch.long, device=self.model.device)
        load_LE = stacked(seen, numbers, none_E)
        all_reduce(load_LE, ReduceOp.SUM)
        for index, router in routers.items():
            router.tokens_per_expert_E.copy_(load_LE[numbers.index(index)])
            update_router_bias(router, self.config.router_bias_rate)
        self.load_LE = load_LE.float()
        biases = {index: router.e_score_correction_bias for index, router in routers.items()}
        self.bias_LE = bias_LE = stacked(biases, numbers, torch.full_like(none_E, -torch.inf, dtype=torch.float32))
        if self.stages:
            all_reduce(bias_LE, ReduceOp.MAX, self.stages)
        if not bool(self.load_LE.any()):
            return {}
        shares_LE = self.load_LE / self.load_LE.sum(dim=-1, keepdim=True)
        entropy_L = torch.special.entr(shares_LE).sum(dim=-1) / math.log(shares_LE.shape[1])
        return {
            "moe/load_imbalance_max": float(shares_LE.max() * shares_LE.shape[1]),
            "moe/router_entropy_mean": float(entropy_L.mean()),
            "moe/bias_spread_max": float((bias_LE.amax(dim=-1) - bias_LE.amin(dim=-1)).max()),
        }

    def detail(self) -> dict[str, Tensor]:
        """What the last step saw: `max_logit`, `gamma` (layers, heads); `load`, `bias` (sparse layers, experts)."""
        return {"max_logit": self.max_logit_LH, "gamma": self.gamma_LH, "load": self.load_LE, "bias": self.bias_LE}

    def state_dict(self) -> dict[str, Tensor]:
        """All state as flat copies: `muon/NAME`, `adamw/exp_avg/NAME`, `adamw/exp_avg_sq/NAME`, `adamw/step`.

        Sharded parameters have sharded state (DTensors, which `torch.distributed.checkpoint` can store).
        """
        return {name: tensor.clone() for name, tensor in self.state().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load what `state_dict` returned, sharded in the same way.

        Raises:
            ValueError: names or shapes are not this optimiser's.
        """
        own = self.state()
        wrong = sorted(set(own) ^ set(state)) or [name for name in own if own[name].shape != state[name].shape]
        if wrong:
            raise ValueError(f"not the state of this model's optimiser: {wrong[0]} and {len(wrong) - 1} more differ")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(state[name])
            for entry in self.adamw.state.values():
                entry["step"].copy_(state["adamw/step"])

    def reset_state(self) -> None:
        """Forget momenta and step count (RL does so whenever the reference policy changes)."""
        for buffer in self.muon.buffers.values():
            buffer.zero_()
        for group in self.adamw.param_groups:
            for parameter in group["params"]:
                self.adamw.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }

    def state(self) -> dict[str, Tensor]:
        """What `state_dict` copies, live."""
        state = {f"muon/{name}": tensor for name, tensor in self.muon.momenta()}
        for name, parameter in self.parameters.items():
            entry = self.adamw.state.get(parameter)
            if entry:
                state |= {f"adamw/{key}/{name}": entry[key] for key in ("exp_avg", "exp_avg_sq")}
                state["adamw/step"] = entry["step"]
        return state
