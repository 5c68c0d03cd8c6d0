"""The model under test as an agent: it replies to all open dialogues in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from k2core.chat.parser import parse_assistant
from k2core.chat.tokenizer import Tokenizer
from k2core.inference.responder import SAMPLER_BATCH
from k2core.inference.rollouts import encode_prompt
from k2core.inference.sampler import Completion, generate
from k2core.model.transformer import Transformer

if TYPE_CHECKING:
    from k2core.inference.constraint import Constraint
    from k2core.inference.enforcer import Enforcer

Message = dict[str, Any]
Tools = list[dict[str, Any]]


@dataclass(frozen=True)
class ModelAgent:
    """Replies of a model; whatever it writes becomes a message, with `errors` where it is no well-formed one.

    Args:
        max_new_tokens: of one reply; a longer one is malformed.
        temperature: 0 is greedy.
        enforcer: holds the replies' tool calls to the declared tools.
    """

    model: Transformer
    tokenizer: Tokenizer
    max_new_tokens: int
    temperature: float
    seed: int
    batch_size: int = SAMPLER_BATCH
    enforcer: Enforcer | None = None

    def replies(self, asked: Sequence[tuple[str, list[Message], Tools]]) -> list[Message]:
        """A reply to each dialogue: its name, its messages and the tools it declares.

        A reply depends on the seed and on its own dialogue alone: the name, which no other dialogue may have, and the
        messages. A dialogue that leaves no room in the model's context for a reply gets a malformed one.
        """
        prompts = [encode_prompt(self.tokenizer, messages, tools) for _, messages, tools in asked]
        room = self.model.config.max_position_embeddings - self.max_new_tokens
        fitting = [number for number, prompt in enumerate(prompts) if len(prompt) <= room]
        completions = generate(
            self.model, [prompts[number] for number in fitting], max_new_tokens=self.max_new_tokens,
            temperature=self.temperature, stop_ids={self.tokenizer.im_end_id}, seed=self.seed,
            batch_size=self.batch_size,
            constraints=[self._constraint(*asked[number][1:]) for number in fitting],
            streams=[f"{self.seed}/{asked[number][0]}/{len(asked[number][1])}" for number in fitting],
        )  # fmt: skip
        made = dict(zip(fitting, completions, strict=True))
        return [
            self._message(made[number]) if number in made
            else {"role": "assistant", "content": "", "errors": [f"{len(prompt)} tokens leave no room for a reply"]}
            for number, prompt in enumerate(prompts)
        ]  # fmt: skip

    def _constraint(self, messages: list[Message], tools: Tools) -> Constraint | None:
        return None if self.enforcer is None else self.enforcer.constraint(messages, tools)

    def _message(self, completion: Completion) -> Message:
        text = self.tokenizer.decode_reply(completion.tokens)
        cut = [] if completion.finish_reason == "stop" else [f"no end within {self.max_new_tokens} tokens"]
        return message_of(text, cut)


def message_of(text: str, faults: Sequence[str] = ()) -> Message:
    """What a model wrote, as a message; with `errors` where it is no well-formed one or has `faults`."""
    parsed = parse_assistant(text)
    if errors := [*parsed.errors, *faults]:
        return {"role": "assistant", "content": text, "errors": errors}
    calls = [{"name": call.name, "arguments": call.arguments} for call in parsed.tool_calls]
    return {"role": "assistant", "content": parsed.content, "tool_calls": calls}
