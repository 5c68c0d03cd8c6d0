"""MuonClip's parameters."""

from __future__ import annotations

from pydantic import Field

from k2core.recipe import Section


class MuonClipConfig(Section):
    """Section `optimizer` (K2 §2.1; Moonlight, arXiv 2502.16982). Rates are multiplied with the phase's schedule."""

    muon_lr: float = Field(gt=0, description="learning rate of the matrices; an update has RMS 0.2 × this")
    adamw_lr: float = Field(gt=0, description="learning rate of embedding, head and norms")
    momentum: float = Field(ge=0, lt=1, description="Muon's (Nesterov) momentum")
    weight_decay: float = Field(ge=0, description="decoupled decay of everything but the norms")
    adamw_beta1: float = Field(ge=0, lt=1, description="AdamW's decay of the mean gradient")
    adamw_beta2: float = Field(ge=0, lt=1, description="AdamW's decay of the mean squared gradient")
    adamw_eps: float = Field(gt=0, description="AdamW's epsilon")
    max_grad_norm: float = Field(gt=0, description="the gradient's global norm is clipped to this")
    qk_clip_threshold: float = Field(gt=0, description="QK-Clip's τ: heads whose logits exceed it are scaled down")
    router_bias_rate: float = Field(ge=0, description="step of a router's expert biases towards balance")
