"""What rephrasing will cost, said before it begins: tokens, hours, and GPU-days at published H100 rates."""

from __future__ import annotations

from dataclasses import dataclass

from k2core.llm.config import LLMConfig

H100_TOKENS_PER_SECOND = {
    "smollm2-135m": 45540,
    "smollm2-360m": 23996,
    "smollm2-1.7b": 9220,
    "qwen3-0.6b": 14069,
    "qwen3-1.7b": 12313,
    "qwen3-4b": 8086,
    "qwen3-8b": 6443,
    "qwen3-14b": 4549,
    "qwen3-32b": 2078,
    "qwen3-30b-a3b": 5310,
    "qwen3-next-80b-a3b": 2678,
    "gemma-3-270m": 23585,
    "gemma-3-1b": 16762,
    "gemma-3-4b": 9253,
    "gemma-3-12b": 3046,
    "gemma-3-27b": 1724,
    "gpt-oss-20b": 14671,
    "gpt-oss-120b": 6117,
}
"""Output tokens per second of one 80 GB H100, by the beginning of a model's name in lower case.

datatrove, examples/inference/benchmark/README.md: vLLM 0.15.0, the best setting found for each model, up to 1,024
tokens after short questions. Long prompts make it slower.
"""
H100_SOURCE = "datatrove's benchmark of vLLM 0.15.0"
_DAY_S = 86400


@dataclass(frozen=True)
class Forecast:
    """The cost of a set of requests.

    Attributes:
        prompt_tokens, output_tokens: estimates, of all requests together.
        tokens_per_second: output tokens, as `llm.expected_tokens_per_second` says of the server.
        h100_tokens_per_second: output tokens per second of one H100 with this model; None where none is published.
    """

    requests: int
    prompt_tokens: int
    output_tokens: int
    tokens_per_second: float
    h100_tokens_per_second: float | None

    @property
    def hours(self) -> float:
        return self.output_tokens / self.tokens_per_second / 3600

    @property
    def h100_days(self) -> float | None:
        """Days of one H100; None where no rate is published."""
        rate = self.h100_tokens_per_second
        return None if rate is None else self.output_tokens / rate / _DAY_S

    def sentence(self) -> str:
        """The forecast for a person."""
        time = f"{self.hours:,.1f} hours" if self.hours >= 1 else f"{3600 * self.hours:.0f} s"
        said = (
            f"{self.requests:,} requests, about {self.prompt_tokens:,} tokens of prompts and {self.output_tokens:,} of "
            f"answers: {time} at {self.tokens_per_second:,g} tokens/s (llm.expected_tokens_per_second)"
        )
        if self.h100_days is None:
            return said
        return (
            f"{said}; {self.h100_days:,.4g} H100-days at the published {self.h100_tokens_per_second:,} tokens/s per GPU"
            f" ({H100_SOURCE})"
        )


def forecast(requests: int, prompt_tokens: int, output_tokens: int, llm: LLMConfig) -> Forecast:
    """The cost of `requests` with so many tokens in all, at the server and model of `llm`."""
    return Forecast(requests, prompt_tokens, output_tokens, llm.expected_tokens_per_second, h100_rate(llm))


def h100_rate(llm: LLMConfig) -> float | None:
    """The published rate for `llm.model`: the longest entry its name begins with; None on the embedded engine (CPU)."""
    name = llm.model.rsplit("/", 1)[-1].lower()
    fitting = [known for known in H100_TOKENS_PER_SECOND if name.startswith(known)]
    return None if llm.embedded or not fitting else H100_TOKENS_PER_SECOND[max(fitting, key=len)]
