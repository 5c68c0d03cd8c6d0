"""Mathematics with answers: reasoning-gym's procedural tasks as texts, with the steps where they are known.

Item i of a task is a pure function of seed and i (of their sum, except gsm_symbolic). Where reasoning-gym's metadata
or a few lines here give the steps (sums, Euclid's algorithm, factorisation, word problems), the text shows them before
the answer.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import Field

from k2core.corpus.documents import Document, Domain
from k2core.machine import packages
from k2core.recipe import RecipeError, Section

NAME = "mathematics"
DOMAIN: Domain = "math"
Entry = dict[str, Any]
_ANSWER_FORM = re.compile(r"\s*Give (?:only )?the [^.]* final answer\.(?: Do not include units\.)?$")
"""reasoning-gym asks for a bare answer; a text that shows the steps does not."""


class Source(Section):
    """Procedural problems; the wording of each is reasoning-gym's."""

    limit: int = Field(ge=0, description="problems in all, spread over the tasks (0 leaves the source out)")
    tasks: list[str] = Field(min_length=1, description="reasoning-gym tasks to draw from")
    seed: int = Field(ge=0, description="first item's seed, far from the seeds of the RL gym and of evaluation")


def installed(config: Source) -> dict[str, str]:
    """The package that makes the problems → its version.

    Raises:
        StorageError: it is not installed.
    """
    return {"reasoning-gym": packages.distribution("reasoning-gym").version}


def documents(config: Source) -> Iterator[Document]:
    """`limit` problems, each as "Problem: …", the steps if known, "Answer: …".

    Raises:
        RecipeError: a task that reasoning-gym does not have.
    """
    if not config.limit:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of a library that reasoning-gym imports
        import reasoning_gym
        from reasoning_gym.factory import DATASETS

    if unknown := sorted(set(config.tasks) - set(DATASETS)):
        raise RecipeError(f"ingest.mathematics.tasks: reasoning-gym has no task {', '.join(unknown)}")
    version = reasoning_gym.__version__
    for place, task in enumerate(config.tasks):
        size = config.limit // len(config.tasks) + (place < config.limit % len(config.tasks))
        items = reasoning_gym.create_dataset(task, seed=config.seed, size=size) if size else ()
        for index in range(size):
            text = render(task, items[index])
            if text:
                yield Document(
                    id=f"{NAME}/{task}/{config.seed + index}",
                    text=text,
                    domain=DOMAIN,
                    source=NAME,
                    license="Apache-2.0",
                    origin=f"pypi:reasoning-gym=={version}:{task}?seed={config.seed}&item={index}",
                    attribution="Reasoning Gym contributors",
                    language="en",
                )


def render(task: str, entry: Entry) -> str | None:
    """The text of one item; None where the generator gives no answer."""
    if entry["answer"] is None:
        return None
    steps = _STEPS[task](entry["metadata"]) if task in _STEPS else []
    question = _ANSWER_FORM.sub("", entry["question"].strip())
    return "\n".join([f"Problem: {question}", *steps, f"Answer: {str(entry['answer']).strip()}"])


def _chain_sum(about: Entry) -> list[str]:
    first, *rest = about["expression"].split()
    total, steps = int(first), []
    for sign, term in zip(rest[::2], rest[1::2], strict=True):
        result = total + int(term) if sign == "+" else total - int(term)
        steps.append(f"{total} {sign} {term} = {result}")
        total = result
    return steps


def _products(about: Entry) -> list[str]:
    """Long multiplication of two factors by the digits of the second."""
    factors = about["expression"].split(" * ")
    if len(factors) != 2 or len(factors[1]) < 2:
        return []
    left, right = int(factors[0]), factors[1]
    places = [int(digit) * 10 ** (len(right) - place - 1) for place, digit in enumerate(right)]
    parts = [left * part for part in places]
    lines = [f"{left} * {part} = {product}" for part, product in zip(places, parts, strict=True) if part]
    return [*lines, " + ".join(str(product) for product in parts if product) + f" = {sum(parts)}"]


def _euclid(about: Entry) -> list[str]:
    numbers = list(about["numbers"])
    divisor, steps = numbers[0], []
    for number in numbers[1:]:
        a, b = max(divisor, number), min(divisor, number)
        while b:
            steps.append(f"{a} = {a // b} * {b} + {a % b}")
            a, b = b, a % b
        divisor = a
    return steps


def _factors(about: Entry) -> list[str]:
    number, steps = about["number"], []
    for factor in about["factors"][:-1]:
        steps.append(f"{number} = {factor} × {number // factor}")
        number //= factor
    return steps


def _fraction(about: Entry) -> list[str]:
    divisor = about["reduction_factor"]
    top, bottom = about["numerator"], about["denominator"]
    return [
        f"Both {top} and {bottom} can be divided by {divisor}.",
        f"{top} / {divisor} = {top // divisor} and {bottom} / {divisor} = {bottom // divisor}",
    ]


def _base_conversion(about: Entry) -> list[str]:
    return [f"{about['source_repr']} in base {about['source_base']} is {about['decimal_value']} in base 10."]


def _word_problem(about: Entry) -> list[str]:
    return [line for line in about["answer_cot"].splitlines() if line.strip() and not line.startswith("####")]


_STEPS: dict[str, Callable[[Entry], list[str]]] = {
    "base_conversion": _base_conversion,
    "chain_sum": _chain_sum,
    "fraction_simplification": _fraction,
    "gcd": _euclid,
    "gsm_symbolic": _word_problem,
    "prime_factorization": _factors,
    "products": _products,
}
