"""The answer in a reply that explains before or after it, by the conventions that lm-evaluation-harness reads.

An answer is marked by `\\boxed{...}` (its MATH tasks), by `####` (GSM8K), by the words "answer is" or "Answer:" (BBH,
MMLU-Pro), or by a line of its own. Where the harness takes the first or the last mark, here all must agree: a reply
that says both Yes and No has answered nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from k2core.gym.base import Item, response_text
from k2core.gym.reasoning import ReasoningGym

BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
MARKED = re.compile(
    r"(?:\banswer\b(?:\W*\bis\b)?\W{0,4}?[:=]|\banswer\b[^\n.?!:]{0,80}?\b(?:is|be)\b\W{0,4}?:?|####)(?=(?P<said>[^\n]*))",
    re.IGNORECASE,
)
REASON = re.compile(r"\b(?:because|since|as)\b|(?<=[.!?])\s", re.IGNORECASE)
"""Where a marked answer ends, and its explanation begins."""


@dataclass(frozen=True)
class Value:
    """What answers look like, and where one stands in a reply that marks none."""

    pattern: re.Pattern[str]
    unmarked: Callable[[str], str]

    def all_in(self, text: str) -> list[str]:
        """The values in `text`, each in one spelling."""
        return [_normal(found) for found in self.pattern.findall(text)]


def marked(reply: str) -> list[str]:
    """What a reply marks as its answer, without the reasons."""
    found = BOXED.findall(reply)
    found += [REASON.split(match["said"].strip())[0] for match in MARKED.finditer(BOXED.sub("", reply))]
    return [said for said in found if re.search(r"\w", said)]


def final(reply: str) -> str:
    """What a reply marks as its answer; the whole reply where it marks nothing."""
    return "\n".join(marked(reply)) or reply


def stated(reply: str, value: Value) -> str | None:
    """The one value that a reply gives as its answer; None if it gives none, or several."""
    lines = [line for line in reply.splitlines() if value.pattern.sub("", line).strip(" \t.,:;!*_`$") == ""]
    passages = [*marked(reply), *lines]
    found = {one for passage in passages for one in value.all_in(passage)}
    found = found or set(value.all_in(value.unmarked(reply)))
    return found.pop() if len(found) == 1 else None


def _normal(value: str) -> str:
    plain = value.lower().replace(",", "").replace("−", "-")
    try:
        return str(float(plain))
    except ValueError:
        return plain


def _last_result(reply: str) -> str:
    """What follows the last `=` or verb of the last sentence with a number: `5 + 6 = 11. Then 11 - 2 = 9.` → `9.`"""
    sentences = [one for one in re.split(r"(?<=[.!?])\s|\n", reply) if re.search(r"\d", one)]
    return re.split(r"=|\b(?:is|are|equals|makes|gives|get)\b", sentences[-1])[-1] if sentences else ""


NUMBER = Value(re.compile(r"(?<![\w.])[-+−]?\d[\d,]*(?:\.\d+)?(?!\w)"), _last_result)
YES_NO = Value(
    re.compile(r"\b(?:yes|(?<=\bor )no|no(?=\s*(?:$|[^\w\s]|(?:yes|or|and|it|this|that)\b)))\b", re.IGNORECASE),
    lambda reply: reply,
)
"""Not the "no" of "no cats are dogs"."""


@dataclass(frozen=True)
class Explained(ReasoningGym):
    """A task of reasoning-gym whose answer is one value; a reply may explain it."""

    value: Value = field(kw_only=True)

    def score(self, item: Item, completion: str) -> float:
        """Whether the reply states the right value and no other."""
        return float(stated(response_text(completion), self.value) == _normal(item.gold["content"]))
