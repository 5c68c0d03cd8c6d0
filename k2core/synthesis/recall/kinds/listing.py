"""A repeated list, and questions about what is where in it."""

from __future__ import annotations

from random import Random

from k2core.synthesis.values import Values

_PLACES = ("first", "second", "third", "fourth", "fifth", "sixth")


def make(random: Random, values: Values, text: str, characters: int) -> str:
    """Lists of four to nine values of one kind, in two of several layouts, each followed by lookups."""
    written = ""
    while len(written) < characters:
        draw = random.choice(values.kinds)
        items = list(dict.fromkeys(draw(random) for _ in range(random.randint(4, 9))))
        layouts = random.sample((_line, _bullets, _numbers, _quoted), 2)
        label = values.word(random)
        written += "".join(f"{label}: {layout(items)}\n" for layout in layouts)
        for place in random.sample(range(len(items)), min(2, len(items))):
            if place < len(_PLACES) and random.random() < 0.5:
                written += f"The {_PLACES[place]} {label} is {items[place]}.\n"
            elif place + 1 < len(items):
                written += f"After {items[place]} comes {items[place + 1]}.\n"
        written += "\n"
    return written.rstrip()


def _line(items: list[str]) -> str:
    return ", ".join(items)


def _bullets(items: list[str]) -> str:
    return "".join(f"\n- {item}" for item in items)


def _numbers(items: list[str]) -> str:
    return "".join(f"\n{place}. {item}" for place, item in enumerate(items, 1))


def _quoted(items: list[str]) -> str:
    return "[" + ", ".join(f'"{item}"' for item in items) + "]"
