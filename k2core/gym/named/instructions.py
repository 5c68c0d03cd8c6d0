"""Following instructions (K2 §3.2.1): one to three at a time that can be met together, checked by code.

A reply passes if it meets all of them, which is IFEval's strict accuracy of prompts, and if the hack-check layer finds
no trick in it. Instructions go together because a reply that meets them was written: it is the item's gold answer, and
SFT may imitate it. What code cannot decide, the tone of a text, an LLM may judge (`k2core/gym/judging.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from k2core.gym.base import UNLIMITED, Item, Split, answer, generated, question, response_text
from k2core.gym.instructions.hacks import trick
from k2core.gym.instructions.kinds import FORMS, KINDS, SHAPES, TONE, TONES, WORDS
from k2core.gym.judging import NO_MODELS, Models
from k2core.recipe import Section

Check = tuple[str, Any]
"""An instruction's kind and its argument."""
LOOKS = ("small", "famous", "wooden", "hidden", "lively", "foreign", "modern", "sleepy", "royal", "windy")
PLACES = ("river", "garden", "market", "library", "harbour", "bridge", "forest", "school", "castle", "island")
SENTENCES = (
    "The {0} is old, and people like it.", "Many come to the {0} every day.", "A {0} needs care.",
    "Nobody knows who made this {0}.", "In the evening, the {0} is quiet.", "Every {0} has its own story.",
)  # fmt: skip
SUIT = {
    "words": tuple(name for name in (*SHAPES, *FORMS) if KINDS[name].few),
    "text": tuple(name for name in (*SHAPES, *FORMS) if name != "words"),
}
"""The kinds for replies of a few words and for texts."""
TIMES, MORE = 4, {"words": 20, "text": 800}
"""A reply has at most so many times the gold's characters, and so many more."""


class InstructionSettings(Section):
    """How hard the instructions are."""

    max_new_tokens: int = Field(ge=1, description="token budget of a response")
    reply: Literal["words", "text"] = Field(
        description="words: a few words, with short prompts for small models; text: sentences about a topic"
    )
    most: int = Field(ge=1, le=3, description="most instructions in a prompt, beside the topic")
    kinds: list[str] = Field(
        description=f"kinds of instructions; []: all that suit the reply. words: {', '.join(SUIT['words'])}; "
        f"text: {', '.join(SUIT['text'])}"
    )

    judge: dict[str, Any] | None = Field(
        description="texts get a tone too, which an LLM judges: keys of gym.llm that are different for it, {}: none; "
        "null: no tone is asked for"
    )

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        suit = SUIT[self.reply]
        for name in self.kinds:
            if name not in suit:
                raise ValueError(f"kinds: no {name} for replies of {self.reply}; there are {', '.join(suit)}")
        if self.kinds and not set(self.kinds) & set(SHAPES):
            raise ValueError(f"kinds: a prompt needs one of {', '.join(name for name in suit if name in SHAPES)}")
        if self.judge is not None and self.reply == "words":
            raise ValueError("judge: a few words have no tone; set it to null, or reply to text")
        return self


def says(checks: Sequence[Check]) -> list[str]:
    """The instructions, a sentence each."""
    return [KINDS[name].says(argument) for name, argument in checks]


def met(checks: Sequence[Check], text: str, most: int = 4000) -> bool:
    """Whether `text` meets all instructions, and without a trick."""
    kinds = dict(checks)
    given = [part for part in (kinds.get("about"), kinds.get("ends")) if part]
    prose = "about" in kinds and "language" not in kinds
    return not trick(text, says(checks), given, most, prose) and all(
        KINDS[name].met(argument, text) for name, argument in checks
    )


@dataclass(frozen=True)
class Instructions:
    """Prompts of one shape and up to two forms, drawn by `settings`."""

    name: str
    settings: InstructionSettings
    models: Models = field(default=NO_MODELS, repr=False, compare=False)

    @property
    def max_new_tokens(self) -> int:
        """Token budget of a response."""
        return self.settings.max_new_tokens

    def size(self, split: Split) -> int:
        """A generator never ends."""
        return UNLIMITED

    def item(self, seed: int, split: Split, index: int) -> Item:
        """Instructions that can be met together: a reply that meets them was written."""
        return generated(f"{seed}/{self.name}/{split}/{index}", split, self._drawn)

    def score(self, item: Item, completion: str) -> float:
        """1 if the reply meets all instructions without a trick, else 0."""
        most = TIMES * len(item.gold["content"]) + MORE[self.settings.reply]
        reply, checks = response_text(completion), item.meta["checks"]
        return float(met(checks, reply, most) and self._has_tone(reply, dict(checks).get("tone")))

    def _has_tone(self, reply: str, tone: str | None) -> bool:
        if tone is None or self.settings.judge is None:
            return tone is None
        where, others = f"gym.instructions.{self.name}.judge", " or ".join(other for other in TONES if other != tone)
        asked = f"Is this text {tone}?", f"Is this text {others}, or nothing of the kind, rather than {tone}?"
        return self.models.agrees(where, self.settings.judge, reply, *asked)

    def _drawn(self, random: Random) -> Item:
        names = self.settings.kinds or SUIT[self.settings.reply]
        shapes, forms = ([name for name in of if name in names] for of in (SHAPES, FORMS))
        while True:
            count = random.randint(0, min(self.settings.most - 1, len(forms)))
            chosen = set(random.sample(forms, count))
            drawn = [random.choice(shapes), *(name for name in forms if name in chosen)]
            checks: list[Check] = [(name, KINDS[name].draw(random)) for name in drawn]
            if self.settings.reply == "text":
                topic = f"{random.choice(LOOKS)} {random.choice(PLACES)}"
                judged = self.settings.judge is not None and "language" not in drawn and random.random() < 0.5
                checks = [("about", topic), *([("tone", TONE.draw(random))] if judged else []), *checks]
                text = " ".join(random.sample(SENTENCES, len(SENTENCES))).format(topic)
            else:
                text = " ".join(random.sample(WORDS, 8))
            for name, argument in checks:
                text = KINDS[name].write(argument, text)
            if met(checks, text):
                asked = " ".join(says(checks))
                return Item(f"instructions/{asked}", question(asked), answer(text), meta={"checks": checks})


def make(settings: Mapping[str, InstructionSettings], models: Models) -> list[Instructions]:
    """The environments of section `gym.instructions`."""
    return [Instructions(name, each, models) for name, each in settings.items()]
