"""The part `llm`: grades from 0 to 5 by a language model against a short rubric, for a sample of each domain.

After K1.5's appendix B (coherence, informativeness, educational value) and FineWeb-Edu's additive scale. Part of the
sample is also judged damaged: how well the grades tell the two apart shows what the judge is worth.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pydantic import Field

from k2core.corpus.documents import sample
from k2core.corpus.quality.damage import KINDS, damage
from k2core.llm.client import Request
from k2core.recipe import Section
from k2core.storage import parse_json

HIGHEST = 5
SCHEMA = {
    "type": "object",
    "properties": {"grade": {"type": "integer", "enum": list(range(HIGHEST + 1))}},
    "required": ["grade"],
    "additionalProperties": False,
}
_RUBRIC = (
    "Grade the text from 0 to 5: 5 is coherent, informative and educational; 0 is worthless: words without order, "
    'a text that breaks off, advertising, page furniture. Answer with JSON such as {"grade": 3}.'
)
_MAX_TOKENS = 32


class JudgeConfig(Section):
    """How many documents the LLM reads, and how much of each."""

    per_domain: int = Field(ge=1, description="documents of each domain that are judged, drawn by hash of their ids")
    probes_per_domain: int = Field(
        ge=1, description="of these, how many are also judged damaged, once in each way of damage.py"
    )
    characters: int = Field(ge=50, description="characters of a document that are judged")


@dataclass(frozen=True)
class Excerpt:
    """A text to be judged; `damage` is how it was damaged, "" for an intact one."""

    id: str
    domain: str
    text: str
    damage: str = ""


class Candidate(NamedTuple):
    """A document that may be judged: `number` is its place among the documents of its domain."""

    id: str
    text: str
    number: int


def drawn(candidates: Iterable[Candidate], config: JudgeConfig, seed: int) -> list[Candidate]:
    """The sample of one domain; that of several samples is the sample of what they are drawn from."""
    return sample(candidates, config.per_domain, key=lambda item: f"{seed}/grade/{item.id}")


def excerpts(domain: str, chosen: Sequence[Candidate], config: JudgeConfig) -> list[Excerpt]:
    """What is judged of a sample: the intact excerpts, then the damaged ones."""
    intact = [Excerpt(item.id, domain, item.text[: config.characters]) for item in chosen]
    probes = intact[: config.probes_per_domain]
    return intact + [
        Excerpt(item.id, domain, damage(item.text, kind, item.id), kind) for kind in KINDS for item in probes
    ]


def request(text: str, seed: int) -> Request:
    """What the LLM is asked about `text`; the likeliest answer is taken."""
    messages = [{"role": "system", "content": _RUBRIC}, {"role": "user", "content": text}]
    return Request(messages, max_tokens=_MAX_TOKENS, temperature=0.0, seed=seed, schema=SCHEMA)


def grade_of(answer: str) -> int | None:
    """The grade in an answer; None if it has none (not every server enforces the schema)."""
    try:
        grade = parse_json(answer)["grade"]
    except (ValueError, KeyError, TypeError):
        return None
    return grade if isinstance(grade, int) and not isinstance(grade, bool) and 0 <= grade <= HIGHEST else None
