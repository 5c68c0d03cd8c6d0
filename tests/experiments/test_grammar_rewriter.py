"""The grammar rewriter: what each rule does, that facts stay, and that versions differ."""

from __future__ import annotations

from itertools import combinations

import pytest

from experiments import grammar_rewriter as grammar
from k2core.synthesis.fidelity import facts

TEXTS = {
    "Velm": (
        "Velm, also known as Upper Velm, is a town in northern Larland that lies on the river Oss. It was founded in "
        "1312 by Duke Anselm. In 1920, the town became part of Larland. It has an important harbour; the railway was "
        "built by Ida Brandt in 1871. Its largest districts are Norden, Sarn, and Kell."
    ),
    "Ida Brandt": (
        "Ida Brandt was a Larlandic engineer and writer. She designed more than 40 bridges, and she was awarded the "
        "Oss Medal in 1890. During the war, she often lived in Kell. She died in 1911."
    ),
    "Glass beetles": "Glass beetles are the insects of the family Vitridae. They live near rivers and are widely kept.",
}
COMMON = facts.common_words(TEXTS.values())


@pytest.mark.parametrize("title", TEXTS)
def test_ten_different_texts_with_the_same_facts(title: str) -> None:
    made = grammar.versions(title, TEXTS[title])
    assert made is not None and len({*made, TEXTS[title]}) == 11
    for text in made:
        assert grammar.keeps_facts(TEXTS[title], text, COMMON), text
        assert " ," not in text and ",," not in text and ".." not in text and "{" not in text
    assert made == grammar.versions(title, TEXTS[title])


def test_versions_share_few_sentences() -> None:
    made = grammar.versions("Velm", TEXTS["Velm"])
    shares = [
        len(set(facts.sentences(a)) & set(facts.sentences(b))) / len(facts.sentences(a))
        for a, b in combinations(made, 2)
    ]
    assert sum(shares) / len(shares) < 0.3 and max(shares) < 0.8


@pytest.mark.parametrize(
    "broken",
    [
        TEXTS["Ida Brandt"].replace("1890", "1891"),
        TEXTS["Ida Brandt"].replace("more than 40 ", ""),
        TEXTS["Ida Brandt"].replace("in Kell", "there"),
        TEXTS["Ida Brandt"].replace("in Kell", "in Norden and Kell"),
    ],
)
def test_a_changed_fact_is_seen(broken: str) -> None:
    assert not grammar.keeps_facts(TEXTS["Ida Brandt"], broken, COMMON)


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("Velm", "Founded in 1312, Velm lies on the river Oss."),
        ("Velm", "Kell is a district of a town."),
        ("Velm", "Velm is a town. Its districts are\n- Norden"),
        ("Glass beetles", "Glass beetles are found near rivers."),
        ("Velm", ""),
    ],
)
def test_what_the_rules_cannot_read_is_refused(title: str, text: str) -> None:
    assert grammar.versions(title, text) is None


def test_pronouns_become_the_name_only_where_they_stand_for_it() -> None:
    parsed = grammar.parse("Velm", "Velm is a town. It is old. Its port is new. It is said that Kell sank. They fish.")
    assert parsed is not None
    assert parsed.statements == ("Velm is old.", "Velm's port is new.", "It is said that Kell sank.", "They fish.")


@pytest.mark.parametrize(
    ("clause", "before", "after"),
    [
        ("front", "He moved to Kell in 1503.", "In 1503, he moved to Kell."),
        ("front", "He moved to Kell.", "He moved to Kell."),
        ("back", "In 1503, he moved to Kell.", "He moved to Kell, in 1503."),
        ("back", "In Norden, Sarn and Kell, it rains.", "In Norden, Sarn and Kell, it rains."),
        ("cleft", "She moved to Kell in the 19th century.", "It was in the 19th century that she moved to Kell."),
        ("active", "The bridge was written by Ida Brandt.", "Ida Brandt wrote the bridge."),
        ("active", "The bridge was built by Ida in 1871.", "Ida built the bridge in 1871."),
        ("active", "It is old; the bridge was built by Ida.", "It is old; the bridge was built by Ida."),
        ("lists", "It lies in Norden, Sarn, and Kell.", "It lies in Sarn, Kell and Norden."),
        (
            "lists",
            "She was a Larlandic engineer, writer, and pilot.",
            "She was a Larlandic engineer, writer, and pilot.",
        ),
    ],
)
def test_a_clause_moves_or_stays(clause: str, before: str, after: str) -> None:
    assert grammar._CLAUSES[clause](before) == after


def test_a_sentence_is_split_only_before_a_subject_of_its_own() -> None:
    assert grammar._split("It is old, and it is big.") == ["It is old.", "It is big."]
    for whole in ("It has a harbour, and sells fish.", "It lies near Norden, Sarn, and the Oss."):
        assert grammar._split(whole) == [whole]


def test_a_synonym_takes_its_article_along() -> None:
    assert {grammar._synonyms("an important town", n) for n in range(3)} == {
        "an important town", "a significant town", "a major town",
    }  # fmt: skip
