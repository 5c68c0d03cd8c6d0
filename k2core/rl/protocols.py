"""How vLLM and SGLang are asked, in token ids; both as of 2026-11.

vLLM: `/v1/completions` with `return_token_ids`; `/collective_rpc` and `/reset_prefix_cache` of its development mode.
SGLang: `/generate` with `input_ids`; `/update_weights_from_disk`, after which each answer names its `weight_version`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

Question = tuple[str, dict[str, Any]]
"""A path, and the body that is posted to it."""


class Unreadable(ValueError):
    """An answer that is not one to the question; says so in words that follow on `the server`."""


@dataclass(frozen=True)
class Answered:
    """Tokens, and the log-probability of each in nats."""

    tokens: list[int]
    log_probs: list[float]

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.log_probs):
            raise Unreadable(f"gave {len(self.tokens)} tokens and {len(self.log_probs)} log-probabilities")
        if not all(type(token) is int for token in self.tokens) or None in self.log_probs:
            raise Unreadable("gave something else than token ids, each with a log-probability")


class Wire(Protocol):
    """One kind of server. An answer that cannot be read raises `Unreadable`, or what Python raises for its shape."""

    def question(self, text: Sequence[int], most: int, temperature: float, seed: int, stop_id: int) -> Question:
        """Asks for up to `most` tokens after `text`."""

    def answer(self, body: Any, text: Sequence[int], version: str) -> Answered:
        """What follows `text`, by policy `version`."""

    def scoring(self, text: Sequence[int]) -> Question:
        """Asks for the log-probabilities of a text's own tokens."""

    def scores(self, body: Any) -> Answered:
        """Those from the second token on."""

    def reload(self, folder: str, version: str) -> list[Question]:
        """Has the weights of `folder` loaded, and what was computed with others forgotten."""


class VLLM:
    """vLLM's OpenAI-compatible server."""

    def __init__(self, model: str) -> None:
        self.model = model

    def question(self, text: Sequence[int], most: int, temperature: float, seed: int, stop_id: int) -> Question:
        return "/v1/completions", {
            "model": self.model, "prompt": list(text), "max_tokens": most, "temperature": temperature, "seed": seed,
            "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "logprobs": 0,
            "stop_token_ids": [stop_id], "ignore_eos": True, "return_token_ids": True,
        }  # fmt: skip

    def answer(self, body: Any, text: Sequence[int], version: str) -> Answered:
        (choice,) = body["choices"]
        if choice["prompt_token_ids"] != list(text):
            raise Unreadable("answered another prompt than the token ids that it was given")
        return Answered(choice["token_ids"], choice["logprobs"]["token_logprobs"])

    def scoring(self, text: Sequence[int]) -> Question:
        return "/v1/completions", {
            "model": self.model, "prompt": list(text), "max_tokens": 1, "temperature": 1.0, "prompt_logprobs": 0,
        }  # fmt: skip

    def scores(self, body: Any) -> Answered:
        (choice,) = body["choices"]
        told = [next(iter(each.items())) for each in choice["prompt_logprobs"][1:]]
        return Answered([int(token) for token, _ in told], [said["logprob"] for _, said in told])

    def reload(self, folder: str, version: str) -> list[Question]:
        return [
            ("/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": folder}}),
            ("/reset_prefix_cache", {}),
        ]


class SGLang:
    """SGLang's own interface."""

    def __init__(self, model: str) -> None:
        del model  # it serves one

    def question(self, text: Sequence[int], most: int, temperature: float, seed: int, stop_id: int) -> Question:
        sampling = {
            "max_new_tokens": most, "temperature": temperature, "top_p": 1.0, "top_k": -1, "min_p": 0.0,
            "stop_token_ids": [stop_id], "sampling_seed": seed,
        }  # fmt: skip
        return "/generate", {"input_ids": list(text), "sampling_params": sampling, "return_logprob": True}

    def answer(self, body: Any, text: Sequence[int], version: str) -> Answered:
        about = body["meta_info"]
        if about["prompt_tokens"] != len(text):
            raise Unreadable(f"read {about['prompt_tokens']} tokens of a prompt of {len(text)}")
        if str(about["weight_version"]) != version:
            raise Unreadable(
                f"answers with weights of version {about['weight_version']}, the policy is version {version}"
            )
        told = about["output_token_logprobs"]
        return Answered([each[1] for each in told], [each[0] for each in told])

    def scoring(self, text: Sequence[int]) -> Question:
        return "/generate", {
            "input_ids": list(text), "sampling_params": {"max_new_tokens": 1, "temperature": 1.0},
            "return_logprob": True, "logprob_start_len": 0,
        }  # fmt: skip

    def scores(self, body: Any) -> Answered:
        told = body["meta_info"]["input_token_logprobs"][1:]
        return Answered([each[1] for each in told], [each[0] for each in told])

    def reload(self, folder: str, version: str) -> list[Question]:
        return [("/update_weights_from_disk", {"model_path": folder, "weight_version": version, "flush_cache": True})]


PROTOCOLS: dict[str, type[VLLM] | type[SGLang]] = {"openai": VLLM, "sglang": SGLang}
