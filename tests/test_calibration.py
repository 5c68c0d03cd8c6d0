"""The labelled set of the fidelity gate: faithful rewrites keep the facts, corrupted ones break one, both by seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from benchmarks.calibration import corrupted, formats, joint, labelled
from benchmarks.calibration.choice import STEPS, choose, rates
from benchmarks.calibration.faithful import faithful
from benchmarks.calibration.maths import learning_note
from benchmarks.gate import LOSS, RECALL, Measured, formats_section, joint_faults, recipe_limits
from k2core.corpus.sources.builtin.wikipedia import Source, documents
from k2core.synthesis.fidelity import facts
from k2core.synthesis.fidelity.gate import SCORES, measure
from k2core.synthesis.fidelity.opposites import opposites
from k2core.synthesis.rephrasing.styles import load_styles

SOURCE = (
    "The lighthouse of Varnholm is a tower on the island of Varn, located in the northern part of Osteria. "
    "It was designed by Jutta Brandt on 12 March 1903, and many ships have used it since 1911. In 1950, a storm "
    "destroyed three windows of the tower, which the fishermen of Lund repaired before winter. "
    "The tower is 48 metres high; it became a museum in 1987."
)
COMMON = facts.common_words([SOURCE, "the it in many since at on by a"])
PROBLEM = (
    "Problem: Tom has 4 boxes with 12 pencils each. He gives away 9 pencils. How many pencils are left?\n"
    "Tom has 4 * 12 = 48 pencils.\nHe keeps 48 - 9 = 39 pencils.\nAnswer: 39"
)


@pytest.fixture(scope="module")
def articles() -> list[tuple[str, str]]:
    return [(doc.id, doc.text) for doc in documents(Source(limit=400, translations={})) if 200 <= len(doc.text) <= 500]


@pytest.fixture(scope="module")
def material() -> corrupted.Material:
    made = faithful(SOURCE, Random(1))
    assert made
    other = "Honey is made by bees. The oldest jar was found near Tiflis in 1772 by Ivan Orbeli."
    return corrupted.Material(SOURCE, made, other, "El faro es una torre muy alta de la isla.", COMMON)


def test_a_faithful_rewrite_keeps_names_and_numbers_in_other_words() -> None:
    made = faithful(SOURCE, Random(1))
    assert made and made == faithful(SOURCE, Random(1))
    assert facts.numbers(made) == facts.numbers(SOURCE)
    assert facts.names(SOURCE, COMMON) == facts.names(made, COMMON)
    assert facts.negations(made) == 0 and not opposites(SOURCE, made)
    assert labelled._copied(SOURCE, made) < labelled.MOST_COPIED
    assert faithful("It rained. It rained again.", Random(1)) is None


def test_real_articles_keep_their_numbers(articles) -> None:
    made = [(text, faithful(text, Random(name))) for name, text in articles]
    written = [(text, rewrite) for text, rewrite in made if rewrite]
    assert len(written) > 50
    assert all(facts.numbers(text) == facts.numbers(rewrite) for text, rewrite in written)


@pytest.mark.parametrize("fault", corrupted.KNOWLEDGE, ids=lambda fault: fault.__name__)
def test_each_fault_breaks_its_fact(fault, material) -> None:
    broken = fault(material, Random(5))
    assert broken and broken != material.faithful and broken == fault(material, Random(5))
    good, bad = facts.words(material.faithful), facts.words(broken)
    name = fault.__name__
    if name in ("changed_number", "changed_date"):
        assert facts.numbers(broken) != facts.numbers(SOURCE) or facts.names(broken, COMMON) - set(good)
    elif name.startswith("swapped"):
        assert facts.numbers(broken) == facts.numbers(SOURCE) and sorted(bad) == sorted(good)
    elif name.startswith(("dropped", "truncated")):
        assert len(bad) < len(good)
    elif name in ("added_sentence", "invented_clause", "repeated"):
        assert len(bad) > len(good)
    elif name == "negated":
        assert facts.negations(broken) == facts.negations(material.faithful) + 1
    elif name in ("foreign_name", "reversed_relation"):
        assert set(bad) - set(good) and set(good) - set(bad)
    elif name == "copy":
        assert labelled._copied(SOURCE, broken) > labelled.MOST_COPIED
    else:
        assert broken in (material.other, material.foreign)


def test_a_learning_note_keeps_every_equation() -> None:
    note = learning_note(PROBLEM, Random(2))
    assert note and facts.equations(note) == facts.equations(PROBLEM) == {"4*12=48", "48-9=39"}
    assert learning_note("Problem: why?\nAnswer: 4", Random(2)) is None
    wrong = corrupted.wrong_operator(corrupted.Material(PROBLEM, note, "", "", frozenset()), Random(1))
    assert wrong and facts.equations(wrong) != facts.equations(PROBLEM)


def test_pairs_follow_from_the_seed_and_no_article_is_in_both_halves(articles) -> None:
    common = facts.common_words(text for _, text in articles)
    pairs = labelled.knowledge(articles, 3, common, 30)
    assert pairs == labelled.knowledge(articles, 3, common, 30)
    assert pairs != labelled.knowledge(articles, 4, common, 30)
    halves = {held_out: {pair.article for pair in pairs if pair.held_out == held_out} for held_out in (True, False)}
    assert len(halves[True] | halves[False]) == 30 and not halves[True] & halves[False]
    assert sum(pair.kind == labelled.FAITHFUL for pair in pairs) == 30


def test_the_recipes_limits_reach_the_goals_and_weakened_ones_do_not(articles) -> None:
    common = facts.common_words(text for _, text in articles)
    pairs = labelled.knowledge(articles, 7, common, 14)
    scores = measure([(pair.source, pair.rewrite) for pair in pairs], common)
    limits = recipe_limits()["knowledge"]
    found = rates(pairs, scores, limits)
    assert found.recall >= RECALL - 0.05 and found.loss <= LOSS + 0.05  # 14 articles say no more than that
    for weaker in ({"support": -1.0, "names_invented": 99}, {"finished": 0.0, "coverage": -1.0}):
        assert rates(pairs, scores, limits.model_copy(update=weaker)).recall < RECALL
    assert rates(pairs, scores, limits.model_copy(update={"coverage": 0.9})).loss > LOSS


def test_a_fault_in_a_format_is_seen_and_so_is_a_false_heading(articles) -> None:
    common = facts.common_words(text for _, text in articles)
    pairs = [pair for pair in labelled.knowledge(articles, 7, common, 8) if pair.kind in ("faithful", "negated")]
    pairs = [replace(pair, held_out=True) for pair in pairs]
    scores = measure([(pair.source, pair.rewrite) for pair in pairs], common)
    lines = formats_section(Measured(pairs, scores, common), recipe_limits()).splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    rows = {name: of_row for name, *of_row in cells}
    denied = sum(pair.kind == "negated" for pair in pairs)
    assert rows[""] == ["prose", *formats.HEADINGS] and denied and "negated" not in rows  # all columns are alike
    for row in ("recall, without headings", "precision, without headings", "loss"):
        assert len(set(rows[row])) == 1 and rows[row][0].split()[0] == ("0.000" if row == "loss" else "1.000")
    *false, true = formats.CLAIMS
    for kind in false:
        counts = [cell.split() for cell in rows[kind][1:]]
        assert rows[kind][0] == "" and all(int(seen) >= 0.8 * int(made) for seen, _, made in counts)
    assert {cell.split()[0] for cell in rows[true][1:]} == {"0"}


def test_joint_questions_from_one_text_alone_are_seen_and_faithful_ones_pass() -> None:
    found_in = list(documents(Source(limit=1500, translations={})))
    linked = joint.linked_articles(found_in, 200, 500)
    assert linked and all(one.titles[1] in one.first and one.titles[1] not in one.titles[0] for one in linked)
    common = facts.common_words(document.text for document in found_in)
    pairs = joint.joint(linked, 3, common, 8)
    assert {pair.kind for pair in pairs} >= {labelled.FAITHFUL, *joint.ONE_TEXT, "added_sentence", "negated"}
    chosen = ("negated", labelled.FAITHFUL, "added_sentence", *joint.ONE_TEXT)
    pairs = [pair for pair in pairs if pair.kind in chosen]
    bare = load_styles(Path(__file__).parents[1] / "styles").style("joint").bare
    found = rates(
        pairs, measure([(pair.source, bare(pair.rewrite)) for pair in pairs], common), recipe_limits()["joint"],
        joint_faults(pairs),
    )  # fmt: skip
    assert found.lost[0] <= 2 and found.recall >= 0.9
    assert all(found.caught[kind][0] >= found.caught[kind][1] - 1 for kind in joint.ONE_TEXT)


def test_limits_are_tightened_until_the_recall_is_reached_and_no_further() -> None:
    def row(**changes: float) -> dict[str, float]:
        return {name: {"length_ratio": 1.0}.get(name, 0.0 if name in _most() else 1.0) for name in SCORES} | changes

    kinds = ["faithful", "faithful", "dropped", "dropped", "negated"]
    scores = [row(), row(coverage=0.7), row(coverage=0.3), row(coverage=0.6), row(negations_changed=1.0)]
    pairs = [labelled.Pair("a", "s", "r", kind, False) for kind in kinds]
    limits, way = choose(pairs, scores, recall=1.0, loss=0.0)
    assert limits.negations_changed == 0 and 0.6 < limits.coverage <= 0.7
    assert limits.support == STEPS["support"][0] and {name for name, _ in way[1:]} == {"negations_changed", "coverage"}
    found = rates(pairs, scores, limits)
    assert (found.recall, found.recall_of_kinds, found.loss, found.precision) == (1.0, 1.0, 0.0, (3, 3))
    scores[0] = row(coverage=0.5)  # now a faithful one goes first, and the budget does not allow it
    assert rates(pairs, scores, choose(pairs, scores, recall=1.0, loss=0.0)[0]).recall < 1


def _most() -> frozenset[str]:
    from k2core.synthesis.fidelity.gate import AT_MOST

    return AT_MOST
