"""Rephrasing: styles, the sample of documents, and the chunk-wise rewrite of long ones (K2 §2.2).

K2 rewrites long documents in chunks of about 256 tokens, one after another with the text so far as context, and
stitches the results. All first chunks are asked for together, then all second ones, and so on: a server keeps its
batch full, and each request still sees the rewrite of the chunk before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import Field

from k2core.corpus import facts
from k2core.corpus.documents import Domain, fraction_of
from k2core.llm.client import LLM, Request
from k2core.recipe import RecipeError, Section, validate

if TYPE_CHECKING:
    from tqdm import tqdm

CHARACTERS_A_TOKEN = 4
"""A rule of thumb for English under any large vocabulary; lengths in tokens are estimated by it, for any server."""
_LEAST_TOKENS, _LONGEST = 48, 2.0
"""A piece's rewrite may have so many tokens, or so many times the tokens of the piece; a longer one has run astray."""
_PREAMBLE = re.compile(
    r"^(?:(?:sure|certainly|of course|here(?:'s| is| are))\b[^\n]*?:|rewrit\w+:|text:)\s+", re.IGNORECASE
)
"""What a model says before it does what it was asked."""


class Example(Section):
    """A piece of text and its rewrite, shown to the model."""

    text: str = Field(min_length=1, description="the piece")
    rewrite: str = Field(min_length=1, description="the piece as the style wants it")


class Style(Section):
    """One way of rewriting, an entry of styles.yaml."""

    domain: Domain = Field(description="documents that this style is for")
    documents: str = Field(description="regular expression that a document must contain; empty for any")
    prompt: str = Field(pattern=r"\{text\}", description="instruction with {text} for the piece to rewrite")
    examples: list[Example] = Field(description="turns that stand before the piece")


@dataclass(frozen=True)
class Job:
    """One document to be rewritten in one style."""

    source_id: str
    style: str
    text: str
    chunks: tuple[str, ...]


@dataclass(frozen=True)
class Rewrite:
    """The stitched rewrite of a job; `truncated` if a piece of it ran into its token limit."""

    job: Job
    text: str
    tokens: int
    truncated: bool


def load_styles(path: Path = Path(__file__).with_name("styles.yaml")) -> dict[str, Style]:
    """The styles by name."""
    content = yaml.safe_load(path.read_text())
    return {name: validate(Style, value, f"{path.name}: {name}") for name, value in content.items()}


def chunk(text: str, tokens: int) -> tuple[str, ...]:
    """`text` in pieces of about `tokens` tokens, cut between sentences (a longer sentence is a piece of its own).

    Lines are kept together with their line ends where a text fits in one piece.
    """
    limit = tokens * CHARACTERS_A_TOKEN
    if len(text) <= limit:
        return (text,)
    pieces: list[str] = []
    for sentence in facts.sentences(text):
        if pieces and len(pieces[-1]) + len(sentence) < limit:
            pieces[-1] += " " + sentence
        else:
            pieces.append(sentence)
    return tuple(pieces)


def plan(documents: Sequence[dict[str, Any]], rewrites: dict[str, int], seed: int, chunk_tokens: int) -> list[Job]:
    """The jobs: for each style its number of documents, drawn by hash from the documents of its domain.

    Styles of a domain draw in one order, so that a small corpus is seen in several styles before it is seen whole.

    Raises:
        RecipeError: an unknown style, or fewer documents than a style asks for.
    """
    styles = load_styles()
    jobs = []
    for name, count in rewrites.items():
        if name not in styles:
            raise RecipeError(f"rephrase.rewrites: no style {name!r}; styles.yaml has {', '.join(styles)}")
        style = styles[name]
        of_domain = (row for row in documents if row["domain"] == style.domain)
        fitting = [row for row in of_domain if re.search(style.documents, row["text"])]
        if len(fitting) < count:
            raise RecipeError(
                f"rephrase.rewrites.{name} = {count}: only {len(fitting)} {style.domain} documents fit the style, "
                "rephrase.min_characters and max_characters; lower it or ingest more"
            )
        order = sorted(fitting, key=lambda row: (fraction_of(f"{seed}/rephrase/{row['id']}"), row["id"]))
        jobs += [Job(row["id"], name, row["text"], chunk(row["text"], chunk_tokens)) for row in order[:count]]
    return jobs


def expected_tokens(jobs: Sequence[Job]) -> int:
    """Tokens that the rewrites will have if they are as long as their sources."""
    return sum(len(job.text) for job in jobs) // CHARACTERS_A_TOKEN


def rewrite_all(
    llm: LLM, jobs: Sequence[Job], *, temperature: float, seed: int, context_tokens: int, bar: tqdm | None = None
) -> list[Rewrite]:
    """The rewrites of `jobs`, in their order; `bar` counts chunks."""
    styles = load_styles()
    written: list[list[str]] = [[] for _ in jobs]
    tokens, truncated = [0] * len(jobs), [False] * len(jobs)
    for place in range(max((len(job.chunks) for job in jobs), default=0)):
        active = [index for index, job in enumerate(jobs) if place < len(job.chunks)]
        requests = [
            _request(
                styles[jobs[i].style],
                list(zip(jobs[i].chunks, written[i], strict=False)),
                jobs[i].chunks[place],
                temperature,
                seed,
                context_tokens,
            )
            for i in active
        ]
        for index, answer in zip(active, llm.complete_many(requests, bar), strict=True):
            written[index].append(_PREAMBLE.sub("", answer.text.strip()))
            tokens[index] += answer.completion_tokens
            truncated[index] |= answer.finish_reason == "length"
    return [
        Rewrite(job, " ".join(parts).strip(), spent, cut)
        for job, parts, spent, cut in zip(jobs, written, tokens, truncated, strict=True)
    ]


def _request(
    style: Style, done: Sequence[tuple[str, str]], text: str, temperature: float, seed: int, context_tokens: int
) -> Request:
    """The style's examples, then as much of the pieces `done` as `context_tokens` hold, then `text`, as a dialogue."""
    room, recent = context_tokens * CHARACTERS_A_TOKEN, []
    for piece, rewrite in reversed(done):
        room -= len(piece) + len(rewrite)
        if room < 0:
            break
        recent.insert(0, (piece, rewrite))
    turns = [*((example.text, example.rewrite) for example in style.examples), *recent, (text, "")]
    messages = [
        message
        for piece, rewrite in turns
        for message in (
            {"role": "user", "content": style.prompt.replace("{text}", piece)},
            {"role": "assistant", "content": rewrite},
        )
    ][:-1]
    limit = max(_LEAST_TOKENS, int(_LONGEST * len(text) / CHARACTERS_A_TOKEN))
    return Request(messages, max_tokens=limit, temperature=temperature, seed=seed)
