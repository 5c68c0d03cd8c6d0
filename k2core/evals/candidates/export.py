"""A model of ours, as the stage `export` writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from k2core.chat.tokenizer import Tokenizer
from k2core.evals.candidates import Reply, Wanted
from k2core.formats.huggingface import load_huggingface
from k2core.inference.rollouts import Prompt, encode_prompt, sample


class Export:
    """Asked through the batched sampler, without the Enforcer."""

    def __init__(self, folder: Path) -> None:
        self.model, self.tokenizer = load_huggingface(folder).eval(), Tokenizer.load(folder)

    def replies(self, wanted: Sequence[Wanted], samples: int, temperature: float, seed: int) -> list[list[Reply]]:
        """The sampler's; a dialogue that leaves no room for a reply in the model's context gets an empty, cut one."""
        context = self.model.config.max_position_embeddings
        prompts: dict[int, Prompt] = {}
        for number, one in enumerate(wanted):
            tokens = encode_prompt(self.tokenizer, one.messages, one.tools)
            room = context - len(tokens)
            if room > 0:
                prompts[number] = Prompt(tokens, min(room, one.max_new_tokens), lambda text: 0.0)
        groups = sample(
            self.model, self.tokenizer, list(prompts.values()), samples=samples, temperature=temperature, seed=seed,
            overlong_reward=0.0,
        )  # fmt: skip
        found = [[Reply("", True)] * samples for _ in wanted]
        for number, group in zip(prompts, groups, strict=True):
            found[number] = [Reply(rollout.text, rollout.truncated) for rollout in group]
        return found
