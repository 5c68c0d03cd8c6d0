"""The phases of every shipped recipe follow on one another, and those that are run keep K2's proportions (K2 §2.5)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from workspace import ROOT

from k2core.corpus.documents import DOMAINS
from k2core.data.mixture.selection import EVERYTHING
from k2core.data.rows.order import QUESTIONS, RECALL
from k2core.model.config import ModelConfig
from k2core.recipe import load_section
from k2core.training.phases import Extension, Phase
from stages.plan_mixture import Pretrain

ANNEAL = 2
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def phases(recipe: Path) -> list[Phase]:
    """All phases of pre-training, and the extension."""
    pretrain = load_section(Pretrain, recipe, "pretrain")
    return [*pretrain.phases.values(), load_section(Extension, recipe, "extend_context")]


@pytest.fixture(params=RECIPES, ids=lambda path: path.stem)
def recipe(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_no_jump_at_a_seam(recipe: Path) -> None:
    for before, after in pairwise(phases(recipe)):
        assert before.schedule.lr_end == after.schedule.lr_start


def test_contexts_grow_and_fit_the_model(recipe: Path) -> None:
    model = load_section(ModelConfig, recipe, "model")
    *four, extension = phases(recipe)
    contexts = [phase.context_length for phase in (*four, extension)]
    assert contexts == sorted(contexts) and contexts[0] == contexts[2] < contexts[3] < contexts[4]
    assert extension.rope_scaling.original_max_position_embeddings <= model.max_position_embeddings == contexts[3]
    assert extension.rope_scaling.context == extension.context_length >= max(extension.lengths)
    assert len({phase.heldout_context for phase in (*four, extension)}) == 1


def test_shares_are_of_known_domains_and_sum_to_one(recipe: Path) -> None:
    for number, phase in enumerate(phases(recipe)):
        assert set(phase.mixture) == {*DOMAINS, RECALL, *([QUESTIONS] if number == ANNEAL else [])}
        assert sum(phase.mixture.values()) == pytest.approx(1)


def test_the_anneal_takes_good_documents_and_long_contexts_long_ones(recipe: Path) -> None:
    """Kimi k1.5, appendix B: high-fidelity subsets; 40% long and 60% ordinary data."""
    stable, decay, anneal, *longer = phases(recipe)
    assert stable.select == decay.select == EVERYTHING
    assert anneal.select.min_quality_quantile > 0 and anneal.mixture[QUESTIONS] < 0.1
    for phase in longer:
        assert phase.select.long_share == 0.4 and phase.select.long_tokens > anneal.context_length


def test_proportions_and_rates_of_the_models_that_are_shown() -> None:
    for name in ("laptop", "evening"):
        stable, decay, anneal, long, _ = phases(ROOT / "recipes" / f"{name}.yaml")
        assert decay.tokens / stable.tokens == pytest.approx(5.5 / 10)
        assert stable.tokens >= 7 * anneal.tokens > 7 * long.tokens, "of 10 : 0.4 : 0.06, stretched"
        ends = [phase.schedule.lr_end for phase in (stable, decay, long)]
        assert ends == pytest.approx([1, 2e-5 / 2e-4, 7e-6 / 2e-4])
