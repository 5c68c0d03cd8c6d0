"""Section `llm`: which model answers, and how patiently it is asked."""

from __future__ import annotations

from pydantic import Field

from k2core.recipe import Section

EMBEDDED = "embedded"


class LLMConfig(Section):
    """One endpoint for every stage that asks an LLM; the embedded engine and a cluster differ by address only."""

    base_url: str = Field(
        pattern=r"^(embedded|https?://\S+)$",
        description="`embedded` (SmolLM2 in this process) or an OpenAI-compatible address such as http://host:8000/v1",
    )
    model: str = Field(min_length=1, description="model name sent with every request")
    api_key_variable: str = Field(
        description="environment variable that holds the server's API key; empty where none is needed"
    )
    context: int = Field(ge=256, description="tokens of prompt and answer together in the embedded engine")
    timeout_s: float = Field(gt=0, description="seconds one answer may take")
    max_attempts: int = Field(ge=1, description="tries for a request that meets a time-out, a dead line, 429 or 5xx")
    max_wait_s: float = Field(gt=0, description="longest pause between two tries, seconds")
    concurrency: int = Field(
        ge=1, description="requests in flight at a server; the embedded engine takes one at a time to stay reproducible"
    )
    expected_tokens_per_second: float = Field(
        gt=0, description="speed that a forecast of the time assumes; changes no result"
    )

    @property
    def embedded(self) -> bool:
        return self.base_url == EMBEDDED

    @property
    def in_flight(self) -> int:
        """Requests in flight at once, at most."""
        return 1 if self.embedded else self.concurrency
