"""The plan of the mixture: it says what the loader then does, phase after phase, and warns of repetition."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from k2core.data.mixture.plan import figures, manifest, plan_phase
from k2core.data.mixture.selection import EVERYTHING, Select
from k2core.data.rows.loader import PhaseSource
from k2core.data.rows.shards import TokenizedDocument, TokenShards, write_shards
from k2core.storage import StorageError

CONTEXT, BATCH = 64, 8
GOOD = Select(min_quality_quantile=0.5, long_share=0, long_tokens=0)
LONG = Select(min_quality_quantile=0, long_share=0.4, long_tokens=128)
PHASES = {
    "stable": (400, {"web": 0.5, "code": 0.5}, EVERYTHING),
    "anneal": (60, {"web": 0.45, "code": 0.45, "qa": 0.1}, GOOD),
    "long": (80, {"web": 0.5, "code": 0.5}, LONG),
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> TokenShards:
    """Web: short documents, rates that follow quality; code: a third is long; qa: few and short."""
    folder, random = tmp_path_factory.mktemp("tokens"), np.random.default_rng(0)

    def document(domain: str, low: int, high: int, quality: float, rate: float) -> TokenizedDocument:
        return TokenizedDocument("train", domain, [1] * int(random.integers(low, high)), 1, quality, rate)

    documents = [document("web", 10, 90, q, 0.2 + 0.8 * q) for q in random.random(3000)]
    documents += [document("code", 20, 60 if i % 3 else 400, q, 1.0) for i, q in enumerate(random.random(900))]
    documents += [document("qa", 10, 30, 1.0, 1.0) for _ in range(60)]
    write_shards(folder, documents, vocab_size=4, eos_id=3)
    return TokenShards(folder)


def plans(shards: TokenShards, phases: dict = PHASES) -> dict[str, dict]:
    made, epochs = {}, {}
    for name, (steps, weights, select) in phases.items():
        made[name] = plan_phase(
            shards, weights=weights, select=select, tokens=steps * BATCH * CONTEXT, epochs_before=epochs
        )
        epochs |= {domain: planned["epochs_after"] for domain, planned in made[name]["domains"].items()}
    return made


def test_the_loader_does_what_the_plan_says(shards: TokenShards) -> None:
    """Up to what packing pads and crops, and the chance of which documents come."""
    planned, cursor = plans(shards), {}
    for name, (steps, weights, select) in PHASES.items():
        phase = PhaseSource(
            shards, weights=weights, steps=steps, batch_rows=BATCH, context=CONTEXT, seed=1, cursor=cursor,
            select=select,
        )  # fmt: skip
        cursor, done = phase.cursor, phase.figures()
        assert done["packing/padding_share"] < 0.03
        for domain in weights:
            plan = planned[name]["domains"][domain]
            assert done[f"mixture/tokens/{domain}"] == pytest.approx(plan["tokens"], rel=0.05, abs=2 * CONTEXT)
            assert done[f"mixture/epochs/{domain}"] == pytest.approx(plan["epochs_after"], rel=0.06)
        if select.long_share:
            assert done["mixture/long_share"] == pytest.approx(planned[name]["long"]["planned"], abs=0.01)


def test_upsampling_follows_rates_selection_and_length(shards: TokenShards) -> None:
    planned = plans(shards)
    web = planned["stable"]["domains"]["web"]["upsampling"]
    assert list(web) == ["q1", "q2", "q3", "q4"] and list(web.values()) == sorted(web.values())
    assert web["q4"] / web["q1"] == pytest.approx((0.2 + 0.8 * 0.875) / (0.2 + 0.8 * 0.125), rel=0.05)
    assert list(planned["stable"]["domains"]["code"]["upsampling"].values()) == pytest.approx([1.0] * 4)
    anneal = planned["anneal"]["domains"]["web"]
    assert anneal["upsampling"]["q1"] == 0 and anneal["documents"] == 1501
    assert planned["anneal"]["domains"]["qa"]["upsampling"] == {"q4": 1.0}, "all equally good"
    long = planned["long"]
    assert long["long"]["planned"] == pytest.approx(0.4) and long["long"]["available"] < 0.4
    assert long["domains"]["web"]["long"] == {"tokens": 0, "documents": 0, "tokens_available": 0}
    assert long["domains"]["code"]["long"]["tokens"] == pytest.approx(0.4 * long["tokens"])


def test_more_than_four_epochs_are_warned_of_once(shards: TokenShards) -> None:
    phases = {f"phase{i}": (20, {"web": 0.5, "qa": 0.5}, EVERYTHING) for i in range(3)}
    content = manifest(shards, plans(shards, phases), 4.0)
    (warning,) = content["warnings"]
    assert warning.startswith("qa: 4.") or (warning.startswith("qa: 8.") and "by the end of phase" in warning)
    assert not manifest(shards, plans(shards, phases), 100.0)["warnings"]
    assert figures(content)["warnings"] == 1


def test_a_mixture_longer_than_asked_is_warned_of(shards: TokenShards) -> None:
    few = LONG.model_copy(update={"long_share": 0.1})
    (warning,) = manifest(shards, plans(shards, {"long": (20, {"code": 1.0}, few)}), 4.0)["warnings"]
    assert "a long_share of 10% thins them out" in warning


def test_the_manifest_is_plain_yaml_and_its_figures_are_numbers(shards: TokenShards) -> None:
    content = manifest(shards, plans(shards), 4.0)
    assert yaml.safe_load(yaml.safe_dump(content)) == content
    flat = figures(content)
    assert all(np.isfinite(value) and isinstance(value, float) for value in flat.values())
    assert flat["anneal/documents/web"] == 1501 and flat["long/long_share/planned"] == 0.4
    assert flat["tokens"] == sum(steps for steps, _, _ in PHASES.values()) * BATCH * CONTEXT


def test_a_domain_that_is_not_there_is_named(shards: TokenShards) -> None:
    with pytest.raises(StorageError, match="no domain math; there are: code, qa, web"):
        plans(shards, {"stable": (1, {"math": 1.0}, EVERYTHING)})


def test_the_plan_needs_no_time_for_a_long_phase(shards: TokenShards) -> None:
    planned = plans(shards, {"stable": (10**10, {"web": 1.0}, EVERYTHING)})
    assert planned["stable"]["domains"]["web"]["epochs"] > 1e6
