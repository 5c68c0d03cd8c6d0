"""Rules need attributes that `tag` computes."""

from __future__ import annotations

from collections.abc import Iterator

from k2core.corpus.tagging import COLUMNS
from stages.curate import Params


def attributes_that_there_are(curate: Params) -> Iterator[str]:
    for domain, rules in curate.rules.items():
        for name in rules.attributes:
            if name not in COLUMNS:
                known = ", ".join(COLUMNS)
                yield f"curate.rules.{domain}.attributes.{name}: no attribute that tag computes; there are {known}"
