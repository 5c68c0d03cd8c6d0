"""Questions by grammar: golden articles, what is not asked, distractors."""

from __future__ import annotations

import pytest

from k2core.synthesis.questions.grammar import Question, distractors, extract, title_of

ARTICLES = {
    "Casablanca (film)": (
        "Casablanca is a 1942 American romantic drama film directed by Michael Curtiz and starring Humphrey Bogart, "
        "Ingrid Bergman, and Paul Henreid. The film was released in January 1943.",
        {
            ("From which year is the film Casablanca?", "1942", "year"),
            ("Who directed the film Casablanca?", "Michael Curtiz", "person"),
            ("In which year was the film Casablanca released?", "1943", "year"),
        },
    ),
    "Quito": (
        "Quito, officially San Francisco de Quito, is the capital and second-largest city of Ecuador, with an "
        "estimated population of 2.8 million in its metropolitan area. It was founded in 1534 by the Spanish.",
        {
            ("What is Quito?", "the capital and second-largest city of Ecuador", "description"),
            ("Of which place is Quito the capital?", "Ecuador", "place"),
            ("What is the population of Quito?", "2.8 million", "number"),
            ("In which year was Quito founded?", "1534", "year"),
        },
    ),
    "Edvard Munch": (
        "Edvard Munch was a Norwegian painter. He was born in 1863. He is best known for his painting The Scream.",
        {
            ("Who was Edvard Munch?", "a Norwegian painter", "description"),
            ("What was the nationality of Edvard Munch?", "Norwegian", "nationality"),
            ("In which year was Edvard Munch born?", "1863", "year"),
            ("What is Edvard Munch known for?", "his painting The Scream", "achievement"),
        },
    ),
    "Stapler": (
        "A stapler is a device that joins pages of paper. Another device is the clip. It was invented in 1867.",
        {("What is a stapler?", "a device that joins pages of paper", "description")},
    ),
}


@pytest.mark.parametrize("title", ARTICLES)
def test_golden_articles(title: str) -> None:
    text, wanted = ARTICLES[title]
    found = {(question.question, question.answer, question.kind) for question in extract(title, text)}
    assert wanted <= found, wanted - found
    if title == "Stapler":  # "It" is the clip
        assert found == wanted


@pytest.mark.parametrize("title", ARTICLES)
def test_answers_stand_in_the_sentence_and_not_in_the_question(title: str) -> None:
    text = ARTICLES[title][0]
    questions = extract(title, text)
    assert questions == extract(title, text)
    for question in questions:
        assert question.answer in question.sentence and question.sentence in text
        assert question.answer.lower() not in question.question.lower()
        assert question.question.endswith("?") and "  " not in question.question
    assert len({question.question for question in questions}) == len(questions)


@pytest.mark.parametrize(
    ("title", "text"),
    [
        ("Nothing", ""),
        ("Rome", "The weather was fine. Nobody had seen it coming."),
        ("The Beatles", "The song was written by John Lennon and Paul McCartney in 1965."),
        ("Ecuador", "Peru is a country in South America."),
    ],
)
def test_no_question_where_the_sentence_is_about_something_else(title: str, text: str) -> None:
    assert extract(title, text) == []


def test_two_authors_are_no_answer() -> None:
    questions = extract("Help! (song)", "Help! is a song written by John Lennon and Paul McCartney.")
    assert not [question for question in questions if question.kind == "person"]


def test_a_title_is_read_from_the_attribution() -> None:
    assert title_of('"Carmen", Wikipedia contributors') == "Carmen"
    assert title_of("Reasoning Gym contributors") == ""


def question(answer: str, kind: str = "year", sentence: str = "") -> Question:
    return Question(f"In which year was {answer[::-1]} founded?", answer, kind, sentence or f"It is {answer}.")  # type: ignore[arg-type]


def test_distractors_are_wrong_answers_of_the_same_kind() -> None:
    asked = question("1900", sentence="It was founded in 1900 and closed in 1950.")
    pool = [asked, question("1900"), question("1950"), question("1811"), question("Rome", "place"), question("1822")]
    assert sorted(distractors(asked, pool, 2, seed=1)) == ["1811", "1822"]
    assert distractors(asked, pool, 2, seed=1) == distractors(asked, pool[::-1], 2, seed=1)
    with pytest.raises(ValueError, match="2 other answers of kind year in the pool, 3 are needed"):
        distractors(asked, pool, 3, seed=1)


def test_numbers_of_the_same_unit_come_first() -> None:
    asked = Question("How long is the Nile?", "6,650 km", "number", "It is 6,650 km long.")
    pool = [Question("How long is it?", f"{n} km", "number", "") for n in (1, 2)]
    pool += [Question("What is the population of it?", f"{n} million", "number", "") for n in range(3, 30)]
    assert set(distractors(asked, pool, 2, seed=3)) == {"1 km", "2 km"}
