"""What users say after their first sentence: a change of mind, a correction, once more, an end (`people.yaml`)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from random import Random

from k2core.recipe.reading import read_yaml


def later(behaviour: str, random: Random, value: str = "", after: str = "answer") -> dict[str, str]:
    """A turn of a user of this behaviour.

    Args:
        value: what the sentence is about, if it is about something.
        after: what the user waits for: the agent's `answer`, or its `question`.
    """
    said = random.choice(_sentences()[behaviour]).replace("{}", value)
    return {"after": after, "says": said[:1].upper() + said[1:]}


@cache
def _sentences() -> dict[str, list[str]]:
    found: dict[str, list[str]] = read_yaml(Path(__file__).with_name("people.yaml"))
    return found
