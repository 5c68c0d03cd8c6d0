"""User personas: the same wish in different tones (`personas.yaml`)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from random import Random

from k2core.recipe import Section, validate


class Persona(Section):
    """Sentences with one `{}` for what is wished, asked, or answered."""

    wish: list[str]
    question: list[str]
    detail: list[str]
    heldout: bool = False

    def say(self, kind: str, text: str, random: Random) -> str:
        """`text` as this user puts it; `kind` is wish, question or detail. Sentences start with a capital."""
        sentence: str = random.choice(getattr(self, kind)).replace("{}", text)
        if "! " in sentence:
            start, _, rest = sentence.partition("! ")
            return f"{start}! {rest[:1].upper()}{rest[1:]}"
        return sentence[:1].upper() + sentence[1:]


def personas() -> dict[str, Persona]:
    """The personas that training sees, by name; errors as for `read_personas`."""
    return {name: persona for name, persona in read_personas().items() if not persona.heldout}


def heldout_personas() -> dict[str, Persona]:
    """The personas that only held-out tasks have; errors as for `read_personas`."""
    return {name: persona for name, persona in read_personas().items() if persona.heldout}


@cache
def read_personas() -> dict[str, Persona]:
    """All personas by name.

    Raises:
        RecipeError: the data file does not fit.
    """
    import yaml

    path = Path(__file__).parent / "personas.yaml"
    return {
        name: validate(Persona, value, f"personas.yaml: {name}")
        for name, value in yaml.safe_load(path.read_text(encoding="utf-8")).items()
    }
