"""MuonClip's parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field

from k2core.optim.optimizer import Optimizer, OptimizerConfig

if TYPE_CHECKING:
    from k2core.model.transformer import Transformer


class MuonClipConfig(OptimizerConfig):
    """Section `optimizer` (K2 §2.1; Moonlight, arXiv 2502.16982). Rates are multiplied by the phase's schedule."""

    muon_lr: float = Field(gt=0, description="learning rate of the matrices; an update has RMS 0.2 × this")
    adamw_lr: float = Field(gt=0, description="learning rate of embedding, head and norms")
    momentum: float = Field(ge=0, lt=1, description="Muon's (Nesterov) momentum")
    weight_decay: float = Field(ge=0, description="decoupled decay of everything but the norms")
    adamw_beta1: float = Field(ge=0, lt=1, description="AdamW's decay of the mean gradient")
    adamw_beta2: float = Field(ge=0, lt=1, description="AdamW's decay of the mean squared gradient")
    adamw_eps: float = Field(gt=0, description="AdamW's epsilon")
    max_grad_norm: float = Field(gt=0, description="the gradient's global norm is clipped to this")
    qk_clip_threshold: float = Field(gt=0, description="QK-Clip's τ: heads whose logits exceed it are scaled down")
    per_head: bool = Field(
        default=False,
        description="orthogonalise each head of MLA's up-projections alone, as Kimi K3 and GLM-5 do; K2 does not",
    )
    router_bias_rate: float = Field(ge=0, description="step of a router's expert biases towards balance")

    def build(self, model: Transformer) -> Optimizer:
        from k2core.optim.muonclip import MuonClip

        return MuonClip(model, self)

    def with_rates(self, matrices: float, others: float) -> Self:
        return self.model_copy(update={"muon_lr": matrices, "adamw_lr": others})


Config = MuonClipConfig
