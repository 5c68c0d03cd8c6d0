"""Rephrasing: the sample of documents, and the chunk-wise rewrite of long ones (K2 §2.2).

K2 rewrites long documents in chunks of about 256 tokens, one after another with the text so far as context, and
stitches the results. Each request in flight is of another document, which goes on with its next chunk when it is
answered: a server keeps its batch full, and each request sees the rewrite of the chunk before it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING, Any

from pydantic import Field

from k2core.corpus.documents import Lowest
from k2core.llm.client import LLM, Refused, Request
from k2core.recipe import RecipeError, Section
from k2core.storage import fraction_of
from k2core.synthesis.fidelity import facts
from k2core.synthesis.rephrasing.linked import Titles
from k2core.synthesis.rephrasing.styles import Library

if TYPE_CHECKING:
    from tqdm import tqdm

Row = dict[str, Any]
CHARACTERS_PER_TOKEN = 4
"""A rule of thumb for English under any large vocabulary, digits aside, which many write one by one."""
_LEAST_TOKENS, _LONGEST = 48, 2.0
"""A piece's rewrite may have so many tokens, or so many times the piece's tokens; a longer one went astray."""
_PREAMBLE = re.compile(
    r"^(?:(?:sure|certainly|of course|here(?:'s| is| are))\b[^\n]*?:|rewrit\w+:|text:)\s+", re.IGNORECASE
)
"""What a model says before it does what it was asked."""


class Share(Section):
    """What is rewritten in one style."""

    documents: int | None = Field(
        ge=0, description="documents to rewrite; null for all that fit the style, 0 leaves the style out"
    )
    per_document: int = Field(ge=1, description="rewrites of each of them, which differ in seed (and perspective)")
    perspectives: list[str] = Field(
        description="names of styles/perspectives; a document's rewrites take them in turn, from a start of its own"
    )


@dataclass(frozen=True)
class Job:
    """The `number`-th rewrite (from 1) of one document in one style.

    Attributes:
        perspective: empty for none.
        linked: the second document of a joint style, as `Titles.partners` gives it; empty in other styles.
    """

    source_id: str
    style: str
    text: str
    chunks: tuple[str, ...]
    number: int = 1
    perspective: str = ""
    linked: dict[str, str] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """What the rewrite is to agree with: the document's text, and that of a second one below it."""
        return f"{self.text}\n\n{self.linked['text']}" if self.linked else self.text


@dataclass
class Rewrite:
    """The rewrite of a job, piece by piece.

    Attributes:
        tokens: generated for it.
        truncated: a piece ran into its token limit.
        refused: why the server did not answer one of its pieces; empty if it did. There is no text then.
    """

    job: Job
    parts: list[str] = field(default_factory=list)
    tokens: int = 0
    truncated: bool = False
    refused: str = ""

    @property
    def text(self) -> str:
        """The pieces joined like the source's: its line ends stay, and a piece of several lines ends its line."""
        if self.refused:
            return ""
        text = ""
        for chunk_, part in zip(self.job.chunks, self.parts, strict=False):
            text += part
            gap = chunk_[len(chunk_.rstrip()) :]
            text += gap if "\n" in gap else "\n" if "\n" in part else " "
        return text.strip()


def chunk(text: str, tokens: int) -> tuple[str, ...]:
    """`text` in pieces of about `tokens` tokens, cut between sentences (a longer sentence is a piece of its own).

    Nothing is lost: joined, the pieces are `text` without its outer blanks.
    """
    limit, text = tokens * CHARACTERS_PER_TOKEN, text.strip()
    if len(text) <= limit:
        return (text,)
    words = re.findall(r"\S+\s*", text)  # as many as the sentences have: those drop closing quotes, never words
    pieces, place = [""], 0
    for sentence in facts.sentences(text):
        count = len(sentence.split())
        part = "".join(words[place : place + count])
        place += count
        if pieces[-1] and len(pieces[-1]) + len(part.rstrip()) > limit:
            pieces.append("")
        pieces[-1] += part
    return tuple(pieces)


def _tokens(text: str) -> int:
    """Tokens of `text`, estimated."""
    digits = sum(map(str.isdigit, text))
    return digits + math.ceil((len(text) - digits) / CHARACTERS_PER_TOKEN)


class Draw:
    """Which documents each style rewrites, drawn by hash from those of its domain and split.

    A first pass `see`s all documents, a block at a time, and keeps the hashes of those that are drawn; then `jobs` are
    made of any block. Styles of a domain draw in one order, so that a small corpus is seen in several styles before it
    is seen whole.

    Args:
        titles: where a joint style finds the second documents; needed where `shares` has such a style.

    Raises:
        RecipeError: an unknown style or perspective.
    """

    def __init__(self, library: Library, shares: Mapping[str, Share], seed: int, titles: Titles | None = None) -> None:
        self._library, self._seed, self._titles = library, seed, titles
        self.shares = {name: share for name, share in shares.items() if share.documents != 0}
        self._drawn = {name: Lowest(share.documents) for name, share in self.shares.items()}
        for name, share in self.shares.items():
            library.style(name)
            for perspective in share.perspectives:
                library.perspective(perspective)

    def see(self, documents: Sequence[Row]) -> None:
        """Take some of the documents into account."""
        for name, drawn in self._drawn.items():
            drawn.see(self._key(row) for row in self._of_style(name, documents))

    def check(self) -> None:
        """
        Raises:
            RecipeError: fewer documents were seen than a style asks for.
        """
        for name, share in self.shares.items():
            style, count = self._library.style(name), self._drawn[name].seen
            if count < (share.documents or 1):
                raise RecipeError(
                    f"rephrase.rewrites.{name}.documents = {share.documents}: only {count} {style.domain} documents "
                    f"of split {style.split} fit the style, rephrase.min_characters and max_characters; lower it "
                    "(0 leaves the style out) or ingest more"
                )

    def jobs(self, documents: Sequence[Row], chunk_tokens: int) -> list[Job]:
        """The jobs of some of the documents that were seen: style by style, in the order of the draw."""
        jobs = []
        for name, share in self.shares.items():
            drawn = (row for row in self._of_style(name, documents) if self._key(row) in self._drawn[name])
            order = sorted(drawn, key=lambda row: (fraction_of(self._key(row)), row["id"]))
            joint = self._titles if self._library.style(name).joint else None
            others = joint.partners(order) if joint else [{}] * len(order)
            for row, linked in zip(order, others, strict=True):
                chunks = (row["text"],) if linked else chunk(row["text"], chunk_tokens)
                start = fraction_of(f"{self._seed}/perspective/{name}/{row['id']}")
                first = int(start * len(share.perspectives))
                for number in range(1, share.per_document + 1):
                    turn = (first + number - 1) % len(share.perspectives) if share.perspectives else 0
                    perspective = share.perspectives[turn] if share.perspectives else ""
                    jobs.append(Job(row["id"], name, row["text"], chunks, number, perspective, linked))
        return jobs

    def _of_style(self, name: str, documents: Sequence[Row]) -> list[Row]:
        style = self._library.style(name)
        own = (row for row in documents if row["domain"] == style.domain and row["split"] == style.split)
        fitting = [row for row in own if re.search(style.documents, row["text"])]
        if style.joint:
            return [row for row in fitting if self._titles and self._titles.find(row) is not None]
        return fitting

    def _key(self, row: Row) -> str:
        return f"{self._seed}/rephrase/{row['id']}"


def expected_tokens(jobs: Sequence[Job], library: Library, context_tokens: int) -> tuple[int, int]:
    """Tokens of all prompts and of all answers, estimated as if rewrites were as long as their sources."""
    prompts = answers = 0
    for job in jobs:
        for place, piece in enumerate(job.chunks):
            request = _request(library, job, job.chunks[:place], 0, 0, context_tokens)
            prompts += sum(_tokens(message["content"]) for message in request.messages)
            answers += _tokens(piece + job.linked.get("text", ""))
    return prompts, answers


def rewrite_all(
    llm: LLM,
    jobs: Sequence[Job],
    library: Library,
    *,
    temperature: float,
    seed: int,
    context_tokens: int,
    bar: tqdm | None = None,
) -> list[Rewrite]:
    """The rewrites of `jobs`, in their order; `bar` counts chunks. The longest ones are asked for first.

    The n-th rewrite of a document is asked for with the n-th seed from `seed` on. If the server refuses a
    chunk, its document is set aside and its other chunks are not asked for.
    """
    counting = Lock()

    def rewritten(job: Job) -> Rewrite:
        item = Rewrite(job)
        for place in range(1, len(job.chunks) + 1):
            answer = llm.answer_or_reason(_request(library, job, item.parts, temperature, seed, context_tokens))
            if isinstance(answer, Refused):
                item.refused = answer.reason
            else:
                item.parts.append(_PREAMBLE.sub("", answer.text.strip()))
                item.tokens += answer.completion_tokens
                item.truncated |= answer.finish_reason == "length"
            with counting:
                if bar is not None:
                    bar.update(len(job.chunks) - place + 1 if item.refused else 1)
            if item.refused:
                break
        return item

    order = sorted(range(len(jobs)), key=lambda place: -len(jobs[place].chunks))
    rewrites = dict(zip(order, llm.each(rewritten, [jobs[place] for place in order]), strict=True))
    return [rewrites[place] for place in range(len(jobs))]


def _request(
    library: Library, job: Job, written: Sequence[str], temperature: float, seed: int, context_tokens: int
) -> Request:
    """The next piece of `job` after those `written`.

    A dialogue: the perspective, the style's examples, as many of the latest pieces with their rewrites as
    fit into `context_tokens`, the piece.
    """
    style, text = library.styles[job.style], job.chunks[len(written)].strip()
    room = context_tokens * CHARACTERS_PER_TOKEN
    recent: list[tuple[str, str]] = []
    for piece, rewrite in reversed(list(zip(job.chunks, written, strict=False))):
        room -= len(piece) + len(rewrite)
        if room < 0:
            break
        recent.insert(0, (piece.strip(), rewrite.strip()))
    other = job.linked.get("text", "")
    examples = ((example.text, example.linked, example.rewrite) for example in style.examples)
    turns = [*examples, *((piece, other, rewrite) for piece, rewrite in recent), (text, other, "")]
    messages = [
        message
        for piece, linked, rewrite in turns
        for message in (
            {"role": "user", "content": style.asked(piece, linked)},
            {"role": "assistant", "content": rewrite},
        )
    ][:-1]
    if job.perspective:
        messages.insert(0, {"role": "system", "content": library.perspectives[job.perspective].prompt})
    limit = max(_LEAST_TOKENS, int(_LONGEST * _tokens(text + other)))
    return Request(messages, max_tokens=limit, temperature=temperature, seed=seed + job.number - 1)
