"""Recall documents: every value that is asked for comes before its answer, and a seed gives the same text."""

from __future__ import annotations

import json
import re
from random import Random

import pytest

from k2core.recipe import modules_in
from k2core.synthesis.recall.kinds import records
from k2core.synthesis.values import Values

TEXT = (
    "The old town of Bangor lies near the river, and its harbour was built by Henry the mason. In the market, traders "
    "from Dublin and Ghent sold copper, wool and salt while boats went up the water towards Chester every morning."
)
KINDS = modules_in("k2core.synthesis.recall.kinds")


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_document_depends_on_its_seed_alone_and_has_its_length(kind: str) -> None:
    def make(seed: int) -> str:
        return KINDS[kind].make(Random(seed), Values([TEXT]), TEXT, 400)

    made = [make(seed) for seed in range(30)]
    assert made == [make(seed) for seed in range(30)] and len(set(made)) == 30
    assert all(200 < len(text) < 2500 and text == text.strip() for text in made)


def test_passages_come_at_least_twice() -> None:
    for seed in range(20):
        text = KINDS["passage"].make(Random(seed), Values([TEXT]), TEXT, 600)
        words = text.split()
        triples = [tuple(words[place : place + 3]) for place in range(len(words) - 2)]
        assert sum(triples.count(triple) > 1 for triple in set(triples)) > 0.3 * len(set(triples))


def test_answers_stand_in_the_records_before_them() -> None:
    asked = 0
    for seed in range(60):
        text = KINDS["records"].make(Random(seed), Values([TEXT]), TEXT, 400)
        for match in re.finditer(r"What is the .+ of .+\? (.+)|Which .+ has .+\? (.+)", text):
            asked += 1
            assert text.count(match[1] or match[2], 0, match.start()) >= 2
    assert asked > 30


def test_records_in_json_are_json_with_numbers_as_numbers() -> None:
    table = {"Ann": {"age": "41", "code": "007", "name": 'a"b'}}
    assert json.loads(records._json("person", table)) == {"person": "Ann", "age": 41, "code": "007", "name": 'a"b'}


def test_values_are_open_and_half_of_the_words_come_from_the_text() -> None:
    values, random = Values([TEXT]), Random(0)
    names = [values.name(random) for _ in range(400)]
    lent = sum(name in {"Bangor", "Henry", "Dublin", "Ghent", "Chester"} for name in names)
    assert 140 < lent < 260 and len(set(names)) > 120
    assert len({values.person(random) for _ in range(400)}) > 280
    assert len({Values().word(random) for _ in range(400)}) > 250, "without a text all are made up"
    for draw in values.kinds:
        assert all(draw(random) for _ in range(50))
