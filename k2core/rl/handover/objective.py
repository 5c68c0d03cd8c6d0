"""The objective as the frameworks' losses need it: a value for each response, scaled as in our loop.

Shapes: N responses.
"""

from __future__ import annotations

from torch import Tensor


def per_response(ratio_N: Tensor, gain_N: Tensor, tau: float) -> Tensor:
    """(r - r̄ - τ log π/π_old)² / 2τ of each response; its mean is `squared_loss` / 2τ.

    Args:
        ratio_N: log π/π_old of whole responses, with gradient.
        gain_N: r - r̄.

    Raises:
        ValueError: τ is not above 0.
    """
    if not tau > 0:
        raise ValueError(f"τ is {tau:g} and must be above 0; set verl's ppo_kl_coef or slime's --kl-loss-coef to it")
    return (gain_N - tau * ratio_N).square() / (2 * tau)
