"""Questions need articles with a title, or problems of the mathematics source."""

from __future__ import annotations

from collections.abc import Iterator

from stages.ingest import Params as Ingest
from stages.questions import Params


def something_to_ask_about(questions: Params, ingest: Ingest) -> Iterator[str]:
    # Files can have articles: title and Wikipedia are read from the attribution, wherever it comes from.
    articles = ingest.wikipedia.limit or any(source.limit != 0 for source in ingest.files)
    for name in ("articles", "passages"):
        if (count := getattr(questions, name)) and not articles:
            yield f"questions.{name} = {count}: no source gives articles; set it to 0 or raise ingest.wikipedia.limit"
    if (count := questions.problems) and not ingest.mathematics.limit:
        yield f"questions.problems = {count}: no source gives problems; set it to 0 or raise ingest.mathematics.limit"
