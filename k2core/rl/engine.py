"""Settings of what samples the rollouts: the sampler in this process, or a server by its address."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from k2core.recipe import Section


class RolloutsConfig(Section):
    """Key `rl.rollouts`; all but `engine` is about a server."""

    engine: Literal["embedded", "openai", "sglang"] = Field(
        description="what samples: this process, vLLM (its OpenAI-compatible server), or SGLang"
    )
    base_url: str = Field(
        default="", pattern=r"^(https?://\S+)?$", description="the server's root, such as http://host:8000 without /v1"
    )
    model: str = Field(default="", description="the model's name at vLLM")
    folder: str = Field(
        default="", description="folder that the server reads too: each version of the policy is written there"
    )
    api_key_variable: str = Field(
        default="", description="environment variable that holds the server's API key; empty where none is needed"
    )
    concurrency: int = Field(default=64, ge=1, le=4096, description="most requests in flight")
    timeout_s: float = Field(default=600.0, gt=0, description="seconds until an answer or a reload counts as failed")
    most_disagreement: float = Field(
        default=0.1, gt=0, description="nats per token by which server and trainer may differ on average"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        needed = {"embedded": (), "sglang": ("base_url", "folder"), "openai": ("base_url", "model", "folder")}
        missing = [name for name in needed[self.engine] if not getattr(self, name)]
        if missing:
            raise ValueError(f"engine {self.engine} needs {' and '.join(missing)}")
        return self
