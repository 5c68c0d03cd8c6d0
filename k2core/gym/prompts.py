"""Items of environments as prompts that responses are sampled for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k2core.gym.base import Environment, Episodic, Item
from k2core.inference.rollouts import Prompt, encode_prompt

if TYPE_CHECKING:
    from k2core.chat.tokenizer import Tokenizer
    from k2core.inference.enforcer import Enforcer


def prompt_of(environment: Environment, item: Item, tokenizer: Tokenizer, enforcer: Enforcer | None = None) -> Prompt:
    """An item as something to sample responses for; `enforcer` holds their tool calls to the item's tools."""
    return Prompt(
        encode_prompt(tokenizer, item.messages, item.tools),
        environment.max_new_tokens,
        lambda text: environment.score(item, text),
        enforcer.constraint(item.messages, item.tools) if enforcer else None,
        (lambda: environment.episode(item, tokenizer)) if isinstance(environment, Episodic) else None,
    )
