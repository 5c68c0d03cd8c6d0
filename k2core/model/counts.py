"""Parameters, in all and activated per token, from the modules themselves (also on the meta device)."""

from __future__ import annotations

from k2core.model.experts import Experts
from k2core.model.transformer import Transformer


def total_parameters(model: Transformer) -> int:
    """All trained parameters, embedding and head included."""
    return sum(parameter.numel() for parameter in model.parameters())


def activated_parameters(model: Transformer) -> int:
    """Parameters that take part in one token's forward pass: all but the routed experts it does not visit.

    Embedding and head count in full, as in DeepSeek-V3's and K2's tables.
    """
    config = model.config
    experts = [module for module in model.modules() if isinstance(module, Experts)]
    routed = sum(parameter.numel() for module in experts for parameter in module.parameters())
    visited = routed * config.num_experts_per_tok // config.n_routed_experts
    return total_parameters(model) - routed + visited
