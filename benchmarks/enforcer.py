"""Tokens per second with the Enforcer against those without it: every row inside a tool call, at every step."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from benchmarks.harness import ROOT, Entry, alternate, compare
from benchmarks.scale import Scale, build, random_batch
from k2core.chat.special_tokens import SPECIAL_TOKENS
from k2core.chat.tokenizer import Tokenizer
from k2core.inference.enforcer import Enforcer, ToolCalls
from k2core.inference.sampler import generate
from k2core.model.transformer import Transformer

TOPIC = "enforcer"
SMALLEST = 256 + len(SPECIAL_TOKENS)
TEXT = {"type": "string", "maxLength": 12}
PASSENGER = {
    "type": "object", "properties": {"name": TEXT, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
    "required": ["name", "age"],
}  # fmt: skip
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {
        "type": "object", "required": required, "properties": {
            "city": TEXT, "date": {"type": "string", "format": "date"}, "cabin": {"enum": ["economy", "business"]},
            "passengers": {"type": "array", "items": PASSENGER, "maxItems": 4}, "flexible": {"type": "boolean"},
        }}}}
    for name, required in (("find_flight", ["city"]), ("find_flights", ["city", "date"]), ("book", ["passengers"]))
]  # fmt: skip
"""Strings are short, for inside them a mask costs least; a random model would seldom end them."""


def run(scale: Scale) -> list[Entry]:
    """An entry for the first model, sampled at temperature 1."""
    size, config = next(iter(scale.models.items()))
    config = config.model_copy(update={"vocab_size": max(config.vocab_size, SMALLEST)})
    texts = [path.read_text() for path in sorted((ROOT / "k2core").rglob("*.py"))]
    enforcer = Enforcer(Tokenizer.train(texts, config.vocab_size))
    model = build(config)
    prompts_BT, _ = random_batch(config, scale.sequences, scale.prompt)
    held = Endless(enforcer.constraint([], TOOLS))
    works = {
        name: decoding(model, prompts_BT, scale.new_tokens, constraint)
        for name, constraint in (("with", held), ("without", None))
    }
    times = alternate(works, rounds=scale.rounds, seconds=scale.seconds)
    tokens = scale.sequences * scale.new_tokens
    return [
        compare(
            f"enforced decoding at batch {scale.sequences}, {size}", [tokens / t for t in times["with"]],
            [tokens / t for t in times["without"]], unit="tokens/s", ratio_of="ours / peer", better="higher",
            goal=None, topic=TOPIC,
            note=f"ourselves without the Enforcer; {scale.new_tokens} tokens, all of them inside tool calls",
        )
    ]  # fmt: skip


def decoding(
    model: Transformer, prompts_BT: Tensor, new_tokens: int, constraint: Endless | None
) -> Callable[[], object]:
    """The sampler; every row has all its tokens sampled."""
    prompts = prompts_BT.tolist()
    return lambda: generate(
        model, prompts, max_new_tokens=new_tokens, temperature=1, stop_ids=set(), seed=1, batch_size=len(prompts),
        constraints=[constraint] * len(prompts),
    )  # fmt: skip


class Endless:
    """A `Constraint`: one section of tool calls after another."""

    def __init__(self, calls: ToolCalls) -> None:
        self.calls = calls

    def begin(self) -> EndlessReply:
        return EndlessReply(self.calls)


class EndlessReply:
    """Its `State`: a reply of its own for each section, in which the section comes first."""

    def __init__(self, calls: ToolCalls) -> None:
        self.calls = calls
        self._anew()

    def allow(self, words_W: np.ndarray) -> None:
        self.reply.allow(words_W)

    def advance(self, token: int) -> None:
        self.reply.advance(token)
        if self.reply.allowed is self.calls.enforcer.end:
            self._anew()

    def _anew(self) -> None:
        self.reply = self.calls.begin()
        self.reply.allowed = self.calls.enforcer.calls
