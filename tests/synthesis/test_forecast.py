"""The cost forecast: arithmetic against published totals, the look-up of rates, the sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from k2core.llm.config import LLMConfig
from k2core.recipe import load_section, read_recipe
from k2core.synthesis.rephrasing.forecast import H100_TOKENS_PER_SECOND, forecast, h100_rate

RECIPES = Path(__file__).parents[2] / "recipes"


def server(model: str, **changes: Any) -> LLMConfig:
    values = {
        "base_url": "http://host:8000/v1", "model": model, "api_key_variable": "", "context": 512, "timeout_s": 1,
        "max_attempts": 1, "max_wait_s": 1, "concurrency": 1, "expected_tokens_per_second": 50,
    }  # fmt: skip
    return LLMConfig(**{**values, **changes})


@pytest.mark.parametrize(
    ("model", "rate"),
    [
        ("HuggingFaceTB/SmolLM2-1.7B-Instruct", 9220),
        ("smollm2-1.7b-instruct", 9220),
        ("Qwen/Qwen3-8B", 6443),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", 5310),
        ("Qwen/Qwen3-32B-FP8", 2078),
        ("openai/gpt-oss-120b", 6117),
        ("moonshotai/Kimi-K2-Instruct", None),
        ("Qwen/Qwen3", None),
        ("my-gpt-oss-120b", None),
    ],
)
def test_the_rate_is_that_of_the_model(model: str, rate: float | None) -> None:
    assert h100_rate(server(model)) == rate


def test_the_embedded_engine_is_no_gpu() -> None:
    llm = server("smollm2-135m-instruct", base_url="embedded")
    made = forecast(10, 3000, 1000, llm)
    assert made.h100_days is None and made.hours == pytest.approx(1000 / 50 / 3600)
    assert made.sentence() == (
        "10 requests, about 3,000 tokens of prompts and 1,000 of answers: 20 s at 50 tokens/s "
        "(llm.expected_tokens_per_second)"
    )


def test_the_sentence_of_a_cluster() -> None:
    llm = server("Qwen/Qwen3-8B", expected_tokens_per_second=20000)
    assert forecast(4_000_000, 2_000_000_000, 1_000_000_000, llm).sentence() == (
        "4,000,000 requests, about 2,000,000,000 tokens of prompts and 1,000,000,000 of answers: 13.9 hours at 20,000 "
        "tokens/s (llm.expected_tokens_per_second); 1.796 H100-days at the published 6,443 tokens/s per GPU "
        "(datatrove's benchmark of vLLM 0.15.0)"
    )


def test_finephrase_costs_what_its_authors_say() -> None:
    """486 billion tokens by SmolLM2-1.7B, 612 GPU-days by Hugging Face's own estimate."""
    made = forecast(339_000_000 * 4, 0, 486_000_000_000, server("SmolLM2-1.7B-Instruct"))
    assert made.h100_days == pytest.approx(612, rel=0.01)


def test_the_k2_recipe() -> None:
    """If what the recipe trains on once has two rewrites beside each text of knowledge and one beside each of maths.

    K2's report says how often at most a text is rewritten (§2.2), but neither how many tokens that made nor by which
    model: those of the recipe.
    """
    recipe = read_recipe(RECIPES / "k2.yaml")
    tokens = sum(
        phase["tokens"] * (phase["mixture"]["knowledge"] * 2 / 3 + phase["mixture"]["math"] / 2)
        for phase in recipe["pretrain"].values()
    )
    made = forecast(round(tokens / 256), 0, round(tokens), load_section(LLMConfig, RECIPES / "k2.yaml", "llm"))
    assert made.output_tokens == pytest.approx(4.65e12, rel=0.01)
    assert made.h100_days == pytest.approx(10_100, rel=0.01)  # 4.65e12 / 5310 / 86400
    assert made.h100_days == pytest.approx(2.18 * made.output_tokens / 1e9, rel=0.01)  # GPU-days a billion tokens


def test_no_entry_hides_another() -> None:
    """Every name finds itself, and no other size of its family."""
    assert all(h100_rate(server(name)) == rate for name, rate in H100_TOKENS_PER_SECOND.items())
