"""A server that speaks as vLLM and as SGLang do, loads the folders it is told of, and samples with our model."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import torch
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from k2core.formats.huggingface import load_huggingface
from k2core.inference.completion import Completion
from k2core.inference.sampler import generate


class StandIn:
    """The server, and what it does wrong.

    Attributes:
        fault: stale: it loads nothing; raw: log-probabilities before temperature; prompt: it answers another one;
            bare: no token ids; long: a token too many; version: it names another version; broken: status 500.
        names: which random numbers a seed means, (stream, tokens drawn before), so that it says what we would say.
        loaded: folders, in order.
    """

    def __init__(self, folder: Path) -> None:
        self.model, self.version = load_huggingface(folder).eval(), "0"
        self.fault, self.names, self.loaded = "", dict[int, tuple[str, int]](), list[str]()
        self.lock = threading.Lock()
        paths = {
            "/v1/completions": self.completions, "/collective_rpc": self.rpc, "/reset_prefix_cache": self.reset,
            "/generate": self.generate, "/update_weights_from_disk": self.update,
        }  # fmt: skip
        self.app = Starlette(routes=[Route(path, self._of(answer), methods=["POST"]) for path, answer in paths.items()])

    def _of(self, answer):
        async def endpoint(request: Request) -> Response:
            body = await request.json()
            if self.fault == "broken":
                return Response("out of memory", 500)
            with self.lock:
                return JSONResponse(answer(body))

        return endpoint

    def _load(self, folder: str, version: str) -> None:
        self.loaded.append(folder)
        if self.fault != "stale":
            self.model, self.version = load_huggingface(Path(folder)).eval(), version

    def _say(self, prompt: list[int], most: int, temperature: float, seed: int, stop: list[int]) -> Completion:
        stream, begun = self.names[seed]
        prefix, said = prompt[: len(prompt) - begun], prompt[len(prompt) - begun :]
        (made,) = generate(
            self.model, [prefix], max_new_tokens=begun + most, temperature=temperature, stop_ids=set(stop), seed=0,
            streams=[stream], begun=[Completion(said, [0.0] * begun, "paused")],
        )  # fmt: skip
        tokens, log_probs = made.tokens[begun:], made.log_probs[begun:]
        if self.fault == "raw":
            log_probs = self._scores([*prompt, *tokens])[-len(tokens) :]
        if self.fault == "long":
            tokens, log_probs = [*tokens, *[5] * most], [*log_probs, *[-1.0] * most]
        return Completion(tokens, log_probs, made.finish_reason)

    @torch.inference_mode()
    def _scores(self, text: list[int]) -> list[float]:
        log_probs = self.model(torch.tensor([text]))[0, :-1].log_softmax(-1)
        return log_probs.gather(1, torch.tensor(text)[1:, None])[:, 0].tolist()

    def completions(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body["model"] == "policy"
        prompt = body["prompt"]
        if "prompt_logprobs" in body:
            pairs = zip(prompt[1:], self._scores(prompt), strict=True)
            told = [None, *({str(token): {"logprob": value, "rank": 1}} for token, value in pairs)]
            return {"choices": [{"prompt_logprobs": told}]}
        assert body["return_token_ids"] and body["ignore_eos"] and body["top_p"] == 1 and body["top_k"] == 0
        made = self._say(prompt, body["max_tokens"], body["temperature"], body["seed"], body["stop_token_ids"])
        choice = {
            "prompt_token_ids": prompt[1:] if self.fault == "prompt" else prompt, "finish_reason": made.finish_reason,
            "logprobs": {"token_logprobs": made.log_probs},
        }  # fmt: skip
        return {"choices": [choice if self.fault == "bare" else choice | {"token_ids": made.tokens}]}

    def rpc(self, body: dict[str, Any]) -> dict[str, Any]:
        assert body["method"] == "reload_weights"
        self._load(body["kwargs"]["weights_path"], "")
        return {"results": [None]}

    def reset(self, body: dict[str, Any]) -> dict[str, Any]:
        return {}

    def generate(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt, options = body["input_ids"], body["sampling_params"]
        if "logprob_start_len" in body:
            told = [[None, prompt[0], None], *zip(self._scores(prompt), prompt[1:], [None] * len(prompt), strict=False)]
            return {"meta_info": {"input_token_logprobs": told}}
        assert body["return_logprob"] and options["top_p"] == 1 and options["top_k"] == -1
        made = self._say(
            prompt, options["max_new_tokens"], options["temperature"], options["sampling_seed"],
            options["stop_token_ids"],
        )  # fmt: skip
        told = [[value, token, None] for token, value in zip(made.tokens, made.log_probs, strict=True)]
        return {"meta_info": {
            "prompt_tokens": len(prompt) - (self.fault == "prompt"),
            "weight_version": "7" if self.fault == "version" else self.version,
            **({} if self.fault == "bare" else {"output_token_logprobs": told}),
        }}  # fmt: skip

    def update(self, body: dict[str, Any]) -> dict[str, Any]:
        self._load(body["model_path"], body["weight_version"])
        return {"success": True}
