"""A model of ours, as the stage `export` writes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from k2core.chat.tokenizer import Tokenizer
from k2core.evals.candidates import Reply, Wanted
from k2core.formats.huggingface import load_huggingface
from k2core.inference.rollouts import Prompt, encode_prompt, sample
from k2core.storage import StorageError


class Export:
    """Asked through the batched sampler, without the Enforcer."""

    def __init__(self, folder: Path) -> None:
        self.model, self.tokenizer = load_huggingface(folder).eval(), Tokenizer.load(folder)

    def replies(self, wanted: Sequence[Wanted], samples: int, temperature: float, seed: int) -> list[list[Reply]]:
        """The sampler's.

        Raises:
            StorageError: a dialogue leaves no room for a reply in the model's context.
        """
        context = self.model.config.max_position_embeddings
        prompts = []
        for one in wanted:
            tokens = encode_prompt(self.tokenizer, one.messages, one.tools)
            room = context - len(tokens)
            if room < 1:
                raise StorageError(f"a dialogue has {len(tokens)} tokens, and the model's context only {context}")
            prompts.append(Prompt(tokens, min(room, one.max_new_tokens), lambda text: 0.0))
        groups = sample(
            self.model, self.tokenizer, prompts, samples=samples, temperature=temperature, seed=seed,
            overlong_reward=0.0,
        )  # fmt: skip
        return [[Reply(rollout.text, rollout.truncated) for rollout in group] for group in groups]
