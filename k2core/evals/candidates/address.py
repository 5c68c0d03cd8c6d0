"""Any model behind an OpenAI-compatible address."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from k2core.chat.special_tokens import IM_END
from k2core.chat.template import reply_text
from k2core.evals.candidates import Reply, Wanted
from k2core.stage import StageError
from k2core.storage.foreign import one_line

AT_ONCE = 16
"""Requests in flight."""
SECONDS = 600.0


class Address:
    """Asked by chat completions; the key is in `OPENAI_API_KEY`, if the server wants one."""

    def __init__(self, address: str, model: str) -> None:
        import openai

        key = os.environ.get("OPENAI_API_KEY") or "none"
        self.model, self.address = model, address
        self.client = openai.OpenAI(base_url=address, api_key=key, timeout=SECONDS, max_retries=5)

    def replies(self, wanted: Sequence[Wanted], samples: int, temperature: float, seed: int) -> list[list[Reply]]:
        """The server's, each asked on its own with a seed of its own; an empty, cut one where its context is too short.

        Raises:
            StageError: the server does not answer, or refuses a request.
        """
        each = [one for one in wanted for _ in range(samples)]
        asked = [(one, seed * 1_000_003 + number) for number, one in enumerate(each)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            said = list(pool.map(lambda pair: self._reply(pair[0], pair[1], temperature), asked))
        return [said[at : at + samples] for at in range(0, len(said), samples)]

    def _reply(self, one: Wanted, seed: int, temperature: float) -> Reply:
        import openai

        tools: dict[str, Any] = {"tools": one.tools} if one.tools else {}
        try:
            choice = self.client.chat.completions.create(
                model=self.model, messages=one.messages, max_tokens=one.max_new_tokens, temperature=temperature,
                seed=seed, **tools,
            ).choices[0]  # fmt: skip
        except openai.BadRequestError as error:
            if "context" in str(error):  # all servers say so in words of their own
                return Reply("", True)
            raise StageError(f"{self.address}#{self.model} refuses a request ({one_line(error)})") from None
        except (openai.OpenAIError, IndexError) as error:
            raise StageError(f"{self.address}#{self.model} gives no reply ({one_line(error)})") from None
        message: dict[str, Any] = {"role": "assistant", "content": choice.message.content or ""}
        if calls := choice.message.tool_calls:
            message["tool_calls"] = [
                {"id": f"functions.{call.function.name}:{number}", "type": "function",
                 "function": {"name": call.function.name, "arguments": call.function.arguments}}
                for number, call in enumerate(calls)
            ]  # fmt: skip
        text = reply_text(message)
        cut = choice.finish_reason == "length"
        return Reply(text.removesuffix(IM_END) if cut else text, cut)
