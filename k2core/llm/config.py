"""Section `llm`: which model answers, and how patiently it is asked."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from k2core.recipe import Section, validate

EMBEDDED = "embedded"


class LLMConfig(Section):
    """The endpoint of the stages that ask an LLM; the embedded engine and a cluster differ by address only.

    A stage can have another one: the key `llm` of its own section (`own_llm`).
    """

    base_url: str = Field(
        pattern=r"^(embedded|https?://\S+)$",
        description="`embedded` (SmolLM2 in this process) or an OpenAI-compatible address such as http://host:8000/v1",
    )
    more_base_urls: list[Annotated[str, Field(pattern=r"^https?://\S+$")]] = Field(
        default=[],
        description="addresses of further servers of the same model, with the same key; a request goes to one of all",
    )
    model: str = Field(min_length=1, description="model name sent with every request")
    api_key_variable: str = Field(
        description="environment variable that holds the server's API key; empty where none is needed"
    )
    context: int = Field(ge=256, description="tokens of prompt and answer together in the embedded engine")
    timeout_s: float = Field(gt=0, description="seconds one answer may take, from the question to its last byte")
    max_attempts: int = Field(ge=1, description="tries for a request after a time-out, a lost connection, 429 or 5xx")
    max_wait_s: float = Field(gt=0, description="longest pause between two tries, seconds")
    concurrency: int = Field(
        ge=1,
        le=1000,
        description="most requests in flight at a server; the embedded engine takes one at a time to stay reproducible",
    )
    expected_tokens_per_second: float = Field(
        gt=0, description="speed of all servers together that a forecast of the time assumes; changes no result"
    )

    def with_own(self, own: dict[str, Any], where: str) -> Self:
        """These settings with the stage's own in their place; another `base_url` stands alone.

        Args:
            where: the key of `own`, for messages, e.g. ``grade.llm``.

        Raises:
            RecipeError: a key or a value does not fit.
        """
        alone: dict[str, Any] = {"more_base_urls": []} if "base_url" in own else {}
        return validate(type(self), self.model_dump() | alone | own, where) if own else self

    @model_validator(mode="after")
    def _servers_differ(self) -> Self:
        if self.embedded and self.more_base_urls:
            raise ValueError(
                "more_base_urls: the embedded engine has no servers beside it; set base_url to one, or take them out"
            )
        if len(set(self.addresses)) < len(self.addresses):
            raise ValueError("more_base_urls: a server is named twice; name each once, base_url included")
        return self

    @property
    def embedded(self) -> bool:
        return self.base_url == EMBEDDED

    @property
    def addresses(self) -> list[str]:
        """All servers."""
        return [self.base_url, *self.more_base_urls]

    @property
    def where(self) -> str:
        """All servers, in words."""
        return ", ".join(self.addresses)

    @property
    def at_each(self) -> int:
        """Requests in flight at a server, at most."""
        return 1 if self.embedded else self.concurrency

    @property
    def in_flight(self) -> int:
        """Requests in flight at once, at most."""
        return self.at_each * len(self.addresses)


def own_llm() -> Any:
    """The key `llm` of a stage's section: a change re-runs that stage alone."""
    return Field(default={}, description="keys of section `llm` that are different for this stage; {}: none")
