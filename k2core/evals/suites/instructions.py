"""Instructions that code can check, one to three in a prompt, as IFEval has them: the gym's, in texts, of all kinds."""

from __future__ import annotations

from pathlib import Path

from k2core.gym.named.instructions import Instructions, InstructionSettings


def make(data: Path | None) -> Instructions:
    """The environment."""
    settings = InstructionSettings(max_new_tokens=192, reply="text", most=3, kinds=[], judge=None)
    return Instructions("instructions", settings)
