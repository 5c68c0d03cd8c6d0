"""Any folder that `transformers` loads.

Calls are read where the model writes K2's control tokens, also with ids as other people's checkpoints write them; what
another model writes for a call counts as words.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from k2core.chat.parser import parse_assistant
from k2core.chat.special_tokens import IM_END, TOOL_CALLS_SECTION_BEGIN
from k2core.chat.template import reply_text
from k2core.evals.candidates import Reply, Wanted
from k2core.storage import StorageError
from k2core.storage.foreign import one_line

BATCH = 16
STEP = 64
"""Room below the budget is rounded down to this, so that dialogues of similar length still share a batch."""


class HuggingFace:
    """Asked through the folder's chat template; a model without one gets the dialogue's texts, line by line."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, padding_side="left", local_files_only=True)
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise StorageError(f"{folder}: transformers does not load it ({one_line(error)})") from None
        self.model = model.eval()
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.calls = TOOL_CALLS_SECTION_BEGIN in self.tokenizer.get_vocab()
        ends = self.model.generation_config.eos_token_id
        self.ends = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}

    def replies(self, wanted: Sequence[Wanted], samples: int, temperature: float, seed: int) -> list[list[Reply]]:
        """transformers' generate, in batches of dialogues of similar length.

        A reply ends where the model's context does, as one that the budget cuts; a dialogue that leaves no room gets
        an empty, cut one.
        """
        import torch

        prompts = [self.tokenizer.encode(self._prompt(one), add_special_tokens=False) for one in wanted]
        budgets = [self._budget(ids, one.max_new_tokens) for ids, one in zip(prompts, wanted, strict=True)]
        order = sorted(
            (index for index, budget in enumerate(budgets) if budget), key=lambda at: (budgets[at], len(prompts[at]))
        )
        found = [[Reply("", True)] * samples for _ in wanted]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for number in range(samples):
                for budget, group in groupby(order, lambda index: budgets[index]):
                    alike = list(group)
                    for batch in (alike[at : at + BATCH] for at in range(0, len(alike), BATCH)):
                        made = self._generate([prompts[index] for index in batch], budget, temperature)
                        for index, ids in zip(batch, made, strict=True):
                            found[index][number] = self._reply(ids, wanted[index])
        return found

    def _budget(self, prompt: list[int], most: int) -> int:
        """Tokens that a reply to `prompt` may have; a model whose configuration names no context has no end."""
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        room = context - len(prompt) if context else most
        return most if room >= most else max(0, room // STEP * STEP or room)

    def _prompt(self, one: Wanted) -> str:
        if not self.tokenizer.chat_template:
            return "\n".join(str(message.get("content") or "") for message in one.messages) + "\n"
        return self.tokenizer.apply_chat_template(
            one.messages, tools=one.tools or None, add_generation_prompt=True, tokenize=False
        )

    def _generate(self, prompts: list[list[int]], most: int, temperature: float) -> list[list[int]]:
        import torch

        read = self.tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
        drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        with torch.inference_mode():
            made = self.model.generate(
                input_ids=read["input_ids"], attention_mask=read["attention_mask"], max_new_tokens=most,
                pad_token_id=self.tokenizer.pad_token_id, eos_token_id=sorted(self.ends),
                **(drawn if temperature else {"do_sample": False}),
            )  # fmt: skip
        return made[:, read["input_ids"].shape[1] :].tolist()

    def _reply(self, ids: list[int], one: Wanted) -> Reply:
        end = next((at for at, token in enumerate(ids) if token in self.ends), len(ids))
        text = self.tokenizer.decode(ids[:end], skip_special_tokens=not self.calls)
        if self.calls and one.tools is not None:
            text = reply_text(parse_assistant(text, one.tools).wire()).removesuffix(IM_END)
        return Reply(text + (IM_END if end < len(ids) else ""), end == len(ids))
