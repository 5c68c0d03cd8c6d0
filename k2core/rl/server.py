"""Rollouts by a server: token ids go in, token ids with log-probabilities come out, and weights go over a folder.

Before the first request under a new version of the policy, its weights are written as a Hugging Face folder and the
server is told to load it. That it did so is not taken on trust. It is asked for the log-probabilities of a text, which
must be those of the trainer's weights and not those of the version before; and a few responses of each call are scored
by the trainer. Differences beyond `most_disagreement` end the training with a sentence.

vLLM must be started with `VLLM_SERVER_DEV_MODE=1` (its endpoint `/collective_rpc` exists only then) and with
`--logprobs-mode processed_logprobs`, since log-probabilities are wanted at the sampling temperature.

Shapes: T positions, V vocabulary.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from k2core.formats.huggingface import save_huggingface
from k2core.inference.completion import Completion, Ends
from k2core.inference.responder import Due
from k2core.llm.client import LLMUnavailable
from k2core.machine.proxies import is_loopback
from k2core.rl.engine import RolloutsConfig
from k2core.rl.protocols import PROTOCOLS, Answered, Unreadable
from k2core.stage import StageError
from k2core.storage import publish
from k2core.storage.foreign import one_line

if TYPE_CHECKING:
    from httpx import Response

    from k2core.model.transformer import Transformer

SCORED, PROBED = 4, 256
"""Responses of a call that the trainer scores too; most tokens of the text that shows which weights a server has."""
ROUNDED = 1e-3
"""A log-probability of almost 0 may be so much more than it."""


class Server:
    """Answers prompts with the weights that `model` has when a version is asked for the first time.

    Args:
        stop_id: the token that ends a response, written into the folders' `config.json`.

    Attributes:
        seconds: spent so far, by `sync` (writing, loading, checking weights) and `wait` (from the time when half of a
            call's responses were there until all were: what partial rollouts can save).
        disagreement: mean difference from the trainer in the last call, in nats per token.
    """

    def __init__(self, config: RolloutsConfig, model: Transformer, stop_id: int) -> None:
        import httpx

        self.config, self.model, self.stop_id = config, model, stop_id
        self.protocol = PROTOCOLS[config.engine](config.model)
        key = os.environ.get(config.api_key_variable, "") if config.api_key_variable else ""
        self.client = httpx.Client(
            base_url=config.base_url.rstrip("/"), timeout=config.timeout_s,
            headers={"authorization": f"Bearer {key}"} if key else {}, trust_env=not is_loopback(config.base_url),
            limits=httpx.Limits(max_connections=config.concurrency, max_keepalive_connections=config.concurrency),
        )  # fmt: skip
        self.loaded: int | None = None
        self.probe: list[int] = []
        self.before: torch.Tensor | None = None
        self.seconds = {"sync": 0.0, "wait": 0.0}
        self.disagreement = 0.0

    def __call__(
        self, due: Sequence[Due], *, version: int, most: int, temperature: float, stop_id: int, repetition: int | None
    ) -> list[Completion]:
        """As `Responder` says.

        Raises:
            LLMUnavailable: the server does not answer.
            StageError: its answers cannot be read, or are not of these weights.
        """
        if self.loaded != version:
            begun = time.perf_counter()
            self._push(version, list(due[0].prompt))
            self.seconds["sync"] += time.perf_counter() - begun
        ends, arrived = Ends(most, frozenset({stop_id}), repetition), list[float]()

        def respond(each: Due) -> Completion:
            if each.constraint is not None:
                raise StageError("rl.rollouts: a server cannot hold responses to a constraint; use engine embedded")
            text = [*each.prompt, *each.begun.tokens]
            now = min(each.now, most - len(each.begun.tokens))
            path, body = self.protocol.question(
                text, now, temperature, seed_of(each.stream, len(each.begun.tokens)), stop_id
            )  # fmt: skip
            answered = self._read(path, body, lambda told: self.protocol.answer(told, text, str(version)))
            arrived.append(time.perf_counter())
            return self._taken(each, answered, now, ends)

        with ThreadPoolExecutor(self.config.concurrency) as pool:
            completions = list(pool.map(respond, due))
        self.seconds["wait"] += max(arrived) - sorted(arrived)[len(arrived) // 2]
        self._score(due, completions, temperature)
        return completions

    def take_times(self) -> dict[str, float]:
        """The seconds since the last call of this, as `time/...`."""
        times = {f"time/{what}": seconds for what, seconds in self.seconds.items()}
        self.seconds = dict.fromkeys(self.seconds, 0.0)
        return times

    def _taken(self, due: Due, answered: Answered, now: int, ends: Ends) -> Completion:
        """What a response is with what was answered."""
        completion = Completion([*due.begun.tokens], [*due.begun.log_probs], "length")
        pause_at = len(due.begun.tokens) + now
        if not 1 <= len(answered.tokens) <= now:
            raise self._fault(f"gave {len(answered.tokens)} tokens where 1 to {now} were asked for")
        for token, log_prob in zip(answered.tokens, answered.log_probs, strict=True):
            if not (0 <= token < self.model.config.vocab_size and log_prob <= ROUNDED):
                raise self._fault(f"gave token {token} with log-probability {log_prob}, which the model cannot say")
            if ends.take(completion, token, log_prob, pause_at):
                break
        return completion

    def _push(self, version: int, prompt: list[int]) -> None:
        """Have the server load the trainer's weights, and see that it did."""
        folder = Path(self.config.folder).resolve() / f"policy-{version:06d}"
        with publish(folder) as scratch:
            save_huggingface(self.model, scratch, eos_token_ids=[self.stop_id])
        for path, body in self.protocol.reload(str(folder), str(version)):
            self._post(path, body)
        self.probe = self.probe or prompt[:PROBED]
        path, body = self.protocol.scoring(self.probe)
        theirs = torch.tensor(self._read(path, body, self.protocol.scores).log_probs)
        ours = self._log_probs(self.probe, 1.0)
        now = float((theirs - ours).abs().mean())
        then = float("inf") if self.before is None else float((theirs - self.before).abs().mean())
        if then < now / 2:
            raise self._fault(
                f"still has the weights of version {self.loaded} of the policy after it was told to load {folder}; see "
                "that it reads this folder and that its reload works"
            )
        if now > self.config.most_disagreement:
            raise self._fault(
                f"and the trainer differ by {now:.3g} nats per token on a given text; rl.rollouts.most_disagreement is "
                f"{self.config.most_disagreement:g}: see that it has loaded {folder}, in the trainer's precision"
            )
        self.loaded, self.before = version, ours
        for old in sorted(folder.parent.glob("policy-*"))[:-2]:
            shutil.rmtree(old)

    def _score(self, due: Sequence[Due], completions: Sequence[Completion], temperature: float) -> None:
        differences = list[float]()
        for each, completion in list(zip(due, completions, strict=True))[:SCORED]:
            new = len(completion.tokens) - len(each.begun.tokens)
            ours = self._log_probs([*each.prompt, *completion.tokens], temperature)[-new:]
            differences += (ours - torch.tensor(completion.log_probs[-new:])).abs().tolist()
        self.disagreement = fmean(differences)
        if self.disagreement > self.config.most_disagreement:
            raise self._fault(
                f"and the trainer differ by {self.disagreement:.3g} nats per token on what it sampled; "
                f"rl.rollouts.most_disagreement is {self.config.most_disagreement:g}: its log-probabilities must be "
                "those at the sampling temperature (vLLM: --logprobs-mode processed_logprobs)"
            )

    @torch.inference_mode()
    def _log_probs(self, text: Sequence[int], temperature: float) -> torch.Tensor:
        """The trainer's log-probabilities of a text's tokens from the second on, [T - 1]."""
        tokens_1T = torch.tensor([list(text)], device=self.model.device)
        logits_TV = self.model(tokens_1T)[0, :-1].float() / (temperature or 1.0)
        return logits_TV.log_softmax(-1).gather(1, tokens_1T[0, 1:, None])[:, 0].cpu()

    def _read(self, path: str, body: dict[str, Any], read: Callable[[Any], Answered]) -> Answered:
        answer = self._post(path, body)
        try:
            return read(answer.json())
        except Unreadable as error:
            raise self._fault(str(error)) from None
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            told = f"{type(error).__name__} {one_line(error)}"
            raise self._fault(f"answered {path} without token ids or without log-probabilities ({told})") from None

    def _post(self, path: str, body: dict[str, Any]) -> Response:
        import httpx

        try:
            answer = self.client.post(path, json=body)
        except httpx.TimeoutException:
            raise LLMUnavailable(
                f"rl.rollouts: {self.config.base_url}{path} did not answer within {self.config.timeout_s:g} s; restart "
                "it or raise rl.rollouts.timeout_s, and run the stage again: it goes on from its checkpoint"
            ) from None
        except httpx.TransportError as error:
            raise LLMUnavailable(
                f"rl.rollouts: {self.config.base_url} cannot be reached ({one_line(error)}); start the server and "
                "run the stage again: it goes on from its checkpoint"
            ) from None
        if not answer.is_success:
            raise self._fault(f"answered {path} with status {answer.status_code}: {one_line(answer.text)[:300]}")
        return answer

    def _fault(self, what: str) -> StageError:
        return StageError(f"rl.rollouts: the server at {self.config.base_url} {what}")


def seed_of(stream: str, begun: int) -> int:
    """The seed of a request: a number of 31 bits, another one for each segment of a response."""
    return int.from_bytes(hashlib.sha256(f"{stream}/{begun}".encode()).digest()[:4]) >> 1
