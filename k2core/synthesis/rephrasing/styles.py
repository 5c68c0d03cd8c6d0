"""Styles and perspectives of rephrasing, read from a folder with a file for each, so that a user can add one (K2 §2.2).

`NAME.yaml` in the folder is the style NAME, `perspectives/NAME.yaml` the perspective NAME. A style says how a text is
put, a perspective who speaks to whom; the recipe combines them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import yaml
from pydantic import Field, field_validator, model_validator

from k2core.corpus.documents import Domain
from k2core.recipe import RecipeError, Section, validate

S = TypeVar("S", bound=Section)
_PERSPECTIVES = "perspectives"
_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Example(Section):
    """A piece of text and its rewrite, shown to the model."""

    text: str = Field(min_length=1, description="the piece")
    linked: str = Field(default="", description="the other document's text, of a style with {linked}")
    rewrite: str = Field(min_length=1, description="the piece as the style wants it")


class Style(Section):
    """One way of rewriting."""

    domain: Domain = Field(description="documents that this style is for")
    documents: str = Field(description="regular expression that a document must contain; empty for any")
    gate: str = Field(min_length=1, description="entry of rephrase.gate that its rewrites are held to")
    form: str = Field(
        default="",
        description="regular expression of what is form alone (labels, headings): the gate does not read it; what its "
        "groups `heading` match may invent and deny nothing",
    )
    language: str | None = Field(
        default=None, description="a translation into this language, of documents in the split `foreign` (ISO 639-1)"
    )
    prompt: str = Field(
        pattern=r"\{text\}",
        description="instruction with {text} for the piece to rewrite; with {linked}, it is about two documents: the "
        "other one's title occurs in the text",
    )
    examples: list[Example] = Field(description="turns shown before the piece; small models need them")

    @property
    def split(self) -> str:
        """The split of the curated documents that the style draws from."""
        return "foreign" if self.language else "train"

    @property
    def joint(self) -> bool:
        """Whether it is about two documents, the second one linked by its title."""
        return "{linked}" in self.prompt

    def asked(self, text: str, linked: str = "") -> str:
        """The prompt for a piece of text."""
        return re.sub(r"\{(text|linked)\}", lambda found: text if found[1] == "text" else linked, self.prompt)

    def headings(self, rewrite: str) -> list[str]:
        """What the headings of a rewrite say, without their labels."""
        if not self.form:
            return []
        found = (match.groupdict().get("heading") for match in re.finditer(self.form, rewrite))
        return [heading for heading in found if heading]

    def bare(self, rewrite: str) -> str:
        """A rewrite without what is form alone."""
        return re.sub(self.form, "", rewrite) if self.form else rewrite

    @field_validator("documents", "form")
    @classmethod
    def _is_an_expression(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"not a regular expression ({error})") from None
        return value

    @model_validator(mode="after")
    def _shows_both_documents(self) -> Self:
        if self.joint and self.language:
            raise ValueError("a prompt with {linked} cannot have a language: a translation has one document")
        if any(bool(example.linked) != self.joint for example in self.examples):
            raise ValueError("each example has a text `linked` if the prompt has {linked}, and none otherwise")
        return self


class Perspective(Section):
    """Who speaks to whom; goes with any style."""

    prompt: str = Field(min_length=1, description="what the model is told before the style's own instruction")


@dataclass(frozen=True)
class Library:
    """What a folder of styles holds, by name."""

    folder: Path
    styles: dict[str, Style]
    perspectives: dict[str, Perspective]

    def style(self, name: str) -> Style:
        """The style of that name.

        Raises:
            RecipeError: there is none.
        """
        return _pick(self.styles, name, "style", self.folder)

    def perspective(self, name: str) -> Perspective:
        """The perspective of that name.

        Raises:
            RecipeError: there is none.
        """
        return _pick(self.perspectives, name, "perspective", self.folder / _PERSPECTIVES)


def load_styles(folder: Path) -> Library:
    """Every style and perspective of `folder`.

    Raises:
        RecipeError: a file that is not a style, or a name that cannot be part of a document's id.
    """
    return Library(folder, _read(Style, folder), _read(Perspective, folder / _PERSPECTIVES))


def _read(cls: type[S], folder: Path) -> dict[str, S]:
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        if not _NAME.fullmatch(path.stem):
            raise RecipeError(f"{path}: a name is made of small letters, digits and _; rename the file")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
        found[path.stem] = validate(cls, content, str(path))
    return found


def _pick(entries: dict[str, S], name: str, what: str, folder: Path) -> S:
    if name not in entries:
        known = ", ".join(entries) or "none"
        raise RecipeError(f"rephrase.rewrites: no {what} {name!r} in {folder}; there are: {known}")
    return entries[name]
