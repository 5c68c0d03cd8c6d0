"""Formats of rephrasing (FAQ, table, tutorial, guided rewrite): what is form is not judged, what is said is."""

from __future__ import annotations

import pytest
from workspace import ROOT

from benchmarks.calibration import formats
from k2core.corpus.sources.builtin import wikipedia
from k2core.recipe import RecipeError, load_section, validate
from k2core.synthesis.fidelity import facts
from k2core.synthesis.fidelity.gate import GateLimits, judge
from k2core.synthesis.fidelity.headings import false_heading
from k2core.synthesis.rephrasing.styles import Style, load_styles

STYLES = load_styles(ROOT / "styles").styles
LIMITS = load_section(GateLimits, ROOT / "recipes" / "laptop.yaml", "rephrase", "gate", "knowledge")
DAMAGE = {
    "faq": [("1903", "1913"), ("won a", "never won a"), ("radioactivity", "the circulation of blood in fish")],
    "table": [("flows south", "does not flow south"), ("Volga", "Rhine"), ("Black Forest", "Vosges")],
    "tutorial": [
        ("is longer", "is not longer"),
        ("Russia", "Poland"),
        ("through Central and Southeastern Europe", "of salt"),
    ],
    "guided": [("Volga", "Rhine"), ("is longer", "is shorter"), ("Southeastern Europe", "Southeastern Asia in 1950")],
}


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [document.text for document in wikipedia.documents(wikipedia.Source(limit=3000, translations={}))]


@pytest.mark.parametrize("name", DAMAGE)
def test_an_example_in_the_format_passes_the_recipes_gate_and_a_damaged_one_does_not(
    name: str, texts: list[str]
) -> None:
    style, common = STYLES[name], facts.common_words(texts)
    (example,) = style.examples
    assert judge(example.text, style.bare(example.rewrite), LIMITS, common).reason == "accepted"
    for right, wrong in DAMAGE[name]:
        damaged = example.rewrite.replace(right, wrong)
        assert damaged != example.rewrite
        assert not judge(example.text, style.bare(damaged), LIMITS, common).accepted, (name, wrong)


@pytest.mark.parametrize("name", formats.HEADINGS)
def test_a_text_put_into_the_format_is_judged_as_the_text_itself(name: str, texts: list[str]) -> None:
    """So what the labelled set says of the gate holds for the formats: its limits were chosen on plain rewrites."""
    style = STYLES[name]
    for text in texts[:300]:
        for claim in ("", "Mr. Ott | Co. was\nnever there."):
            put = formats.put(name, "Dr. No", text, claim=claim)
            assert facts.words(style.bare(put)) == facts.words(text) != facts.words(put)


HEADINGS = {
    "faq": [
        ("What is she known for?", "Why did she never win a prize?"),
        ("Who was Marie Curie?", "Who was Marie Curie, born in 1867?"),
    ],
    "table": [("Subject", "Subject, and not the longest river"), ("Course", "Course through Hungary and Serbia")],
    "tutorial": [
        ("Follow its course", "Do not follow its course"),
        ("Follow its course", "Follow trains carrying heavy cargo towards distant harbours"),
    ],
}


@pytest.mark.parametrize("name", HEADINGS)
def test_a_heading_may_ask_and_lead_on_but_invent_and_deny_nothing(name: str, texts: list[str]) -> None:
    style, common = STYLES[name], facts.common_words(texts)
    (example,) = style.examples
    headings = style.headings(example.rewrite)
    assert len(headings) == {"faq": 2, "table": 4, "tutorial": 2}[name]
    assert not false_heading(example.text, headings, common)
    assert not false_heading(example.text, [heading.title() for heading in headings], common)
    for right, wrong in HEADINGS[name]:
        damaged = example.rewrite.replace(right, wrong)
        assert damaged != example.rewrite and false_heading(example.text, style.headings(damaged), common), wrong
        assert style.bare(damaged) == style.bare(example.rewrite), "the gate's limits do not see it"


def test_a_form_that_is_no_expression_is_refused() -> None:
    about = {"domain": "web", "documents": "", "gate": "g", "prompt": "{text}", "examples": []}
    assert validate(Style, about, "a.yaml").bare("Step 1: x") == "Step 1: x"
    with pytest.raises(RecipeError, match=r"form = '\(': not a regular expression"):
        validate(Style, {**about, "form": "("}, "a.yaml")
