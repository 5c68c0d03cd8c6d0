"""Any folder that `transformers` loads.

Calls are read where the model writes K2's control tokens, also with ids as other people's checkpoints write them; what
another model writes for a call counts as words.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from k2core.chat.parser import parse_assistant
from k2core.chat.special_tokens import IM_END, TOOL_CALLS_SECTION_BEGIN
from k2core.chat.template import reply_text
from k2core.evals.candidates import Reply, Wanted
from k2core.storage import StorageError
from k2core.storage.foreign import one_line

BATCH = 16


class HuggingFace:
    """Asked through the folder's chat template; a model without one gets the dialogue's texts, line by line."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        if not folder.is_dir():
            raise StorageError(f"{folder}: no such folder")
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
        """transformers' generate, in batches of dialogues of similar length."""
        import torch

        prompts = [self._prompt(one) for one in wanted]
        order = sorted(range(len(wanted)), key=lambda index: (wanted[index].max_new_tokens, len(prompts[index])))
        found: list[list[Reply]] = [[] for _ in wanted]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for number in range(samples):
                for at in range(0, len(order), BATCH):
                    batch = order[at : at + BATCH]
                    most = max(wanted[index].max_new_tokens for index in batch)
                    for index, ids in zip(
                        batch, self._generate([prompts[i] for i in batch], most, temperature), strict=True
                    ):
                        assert len(found[index]) == number
                        found[index].append(self._reply(ids[: wanted[index].max_new_tokens], wanted[index]))
        return found

    def _prompt(self, one: Wanted) -> str:
        if not self.tokenizer.chat_template:
            return "\n".join(str(message.get("content") or "") for message in one.messages) + "\n"
        return self.tokenizer.apply_chat_template(
            one.messages, tools=one.tools or None, add_generation_prompt=True, tokenize=False
        )

    def _generate(self, prompts: list[str], most: int, temperature: float) -> list[list[int]]:
        import torch

        read = self.tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
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
