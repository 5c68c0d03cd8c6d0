"""The cache gives what the full forward gives; what is drawn follows the model's distribution and nothing else."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
import pytest
import torch

from k2core.inference.sampler import generate
from k2core.inference.stream import stream
from k2core.model.config import ModelConfig, YarnConfig
from k2core.model.transformer import Transformer

pytestmark = pytest.mark.usefixtures("either_way")

STOP = {3, 4, 5, 6, 7, 8}
YARN = YarnConfig(factor=4, beta_fast=32, beta_slow=1, mscale=1, mscale_all_dim=1, original_max_position_embeddings=16)


def build(yarn: YarnConfig | None = None, initializer_range: float = 0.3) -> Transformer:
    torch.manual_seed(0)
    return Transformer(ModelConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=3,
        num_attention_heads=2, attention="mla",
        q_lora_rank=16, kv_lora_rank=12, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=12,
        n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1,
        routed_scaling_factor=2.827, rope_theta=50000.0, rope_scaling=yarn, max_position_embeddings=64,
        rms_norm_eps=1e-6, initializer_range=initializer_range,
    ))  # fmt: skip


def prompts(lengths: list[int]) -> list[list[int]]:
    random = Random(0)
    return [[random.randrange(50) for _ in range(length)] for length in lengths]


def sample(model, given, **changes):
    options = {"max_new_tokens": 12, "temperature": 0.8, "stop_ids": STOP, "seed": 5, "batch_size": 64}
    return generate(model, given, **(options | changes))


def test_the_cache_holds_only_latents():
    from k2core.model.cache import KeyValueCache

    cache = KeyValueCache(build().config, 5, 20, torch.zeros(()))
    assert [tuple(layer.shape) for layer in cache.layers] == [(5, 20, 12 + 8)] * 3


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_stream_gives_the_tokens_of_the_batch(temperature):
    model, given = build(), prompts([5, 1, 9])
    streams = ["5/a", "5/b", "5/c"]
    for prompt, name, completion in zip(
        given, streams, sample(model, given, temperature=temperature, streams=streams), strict=True
    ):
        options = {"max_new_tokens": 12, "temperature": temperature, "stop_ids": STOP}
        assert list(stream(model, prompt, seed=name, **options)) == completion.tokens


@pytest.mark.parametrize("yarn", [None, YARN], ids=["plain", "yarn"])
def test_log_probs_equal_those_of_the_full_forward(yarn):
    """Prefill and absorbed decoding against one forward over the finished text, at mixed lengths and with drops."""
    model, given = build(yarn), prompts([1, 9, 3, 9, 17, 2])
    completions = sample(model, given)
    lengths = {len(completion.tokens) for completion in completions}
    assert len(lengths) > 2  # sequences left the batch at different times
    for prompt, completion in zip(given, completions, strict=True):
        text = torch.tensor([prompt + completion.tokens])
        expected = (model(text) / 0.8).log_softmax(-1)[0, len(prompt) - 1 : -1]
        expected = expected.gather(1, torch.tensor(completion.tokens)[:, None])[:, 0]
        assert float((expected - torch.tensor(completion.log_probs)).abs().max()) < 1e-4


def test_greedy_equals_step_by_step_without_a_cache():
    model, given = build(), prompts([4, 11])
    for prompt, completion in zip(given, sample(model, given, temperature=0, stop_ids=set()), strict=True):
        text = list(prompt)
        for _ in range(12):
            text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
        assert completion.tokens == text[len(prompt) :]
        assert completion.finish_reason == "length"


def test_company_does_not_matter():
    model, given = build(), prompts([3, 8, 8, 1, 20, 5, 5, 13])
    together = sample(model, given)
    for batch_size in (1, 3):
        for one, other in zip(together, sample(model, given, batch_size=batch_size), strict=True):
            assert one.tokens == other.tokens
            assert one.log_probs == pytest.approx(other.log_probs, abs=1e-5)
    assert sample(model, given[:2])[1].tokens == together[1].tokens


def test_seeds():
    model, given = build(), prompts([5]) * 4
    assert sample(model, given) == sample(model, given)
    assert sample(model, given) != sample(model, given, seed=6)
    assert len({tuple(completion.tokens) for completion in sample(model, given)}) == 4  # equal prompts, own streams


def test_stop_tokens_end_a_completion_and_are_part_of_it():
    completions = sample(build(), prompts([4] * 40))
    reasons = Counter(completion.finish_reason for completion in completions)
    assert reasons["stop"] and reasons["length"]
    for completion in completions:
        assert len(completion.tokens) == len(completion.log_probs) <= 12
        stops = [token in STOP for token in completion.tokens]
        assert not any(stops[:-1]) and stops[-1] == (completion.finish_reason == "stop")
        assert completion.finish_reason == "stop" or len(stops) == 12


def test_tokens_follow_the_distribution():
    model, prompt = build(), prompts([6])[0]
    drawn = Counter(c.tokens[0] for c in sample(model, [prompt] * 4000, max_new_tokens=1, batch_size=4000))
    expected = (model(torch.tensor([prompt]))[0, -1] / 0.8).softmax(-1)
    for token, probability in enumerate(expected.tolist()):
        deviation = (4000 * probability * (1 - probability)) ** 0.5
        assert abs(drawn[token] - 4000 * probability) < 4.5 * deviation + 1, token


def test_sampling_leaves_no_trace():
    model = build()
    state = torch.get_rng_state()
    sample(model, prompts([4, 7]))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(bool((layer.max_logit_H == -torch.inf).all()) for layer in model.attentions())
    assert all(int(router.tokens_per_expert_E.sum()) == 0 for router in model.routers())


@pytest.mark.parametrize("change", [{"temperature": -1.0}, {"max_new_tokens": 0}])
def test_impossible_requests_are_refused(change):
    with pytest.raises(ValueError, match="cannot sample"):
        sample(build(), prompts([3]), **change)
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        sample(build(), [[1], []])


class Only:
    """A `Constraint`: tokens of one set first, then of the other, in turn."""

    def __init__(self, *sets: set[int]) -> None:
        self.sets = sets

    def begin(self) -> OnlyState:
        return OnlyState(self.sets)


class OnlyState:
    def __init__(self, sets: tuple[set[int], ...]) -> None:
        self.sets, self.said = sets, []

    def allow(self, words_W) -> None:
        bits = np.zeros(64, dtype=np.uint8)
        bits[list(self.sets[len(self.said) % len(self.sets)])] = 1
        words_W[:] = np.packbits(bits, bitorder="little").view(np.int32)

    def advance(self, token: int) -> None:
        assert token not in STOP, "a finished reply goes on"
        self.said.append(token)


@pytest.mark.parametrize("temperature", [0, 0.8])
def test_a_constraint_gives_tokens_and_log_probs_among_the_allowed(temperature):
    model, given = build(), prompts([4, 9, 9, 2])
    sets = ({10, 20, 30, 31}, {3, 11, 40}, {17})
    completions = sample(model, given, temperature=temperature, constraints=[Only(*sets)] * 4)
    for prompt, completion in zip(given, completions, strict=True):
        logits = model(torch.tensor([prompt + completion.tokens]))[0, len(prompt) - 1 : -1] / (temperature or 1)
        for step, (token, log_prob) in enumerate(zip(completion.tokens, completion.log_probs, strict=True)):
            among = sorted(sets[step % 3])
            assert token in among
            of_all = logits[step, among].log_softmax(-1)
            assert log_prob == pytest.approx(float(of_all[among.index(token)]), abs=1e-4)
            assert temperature or float(of_all.max()) == pytest.approx(log_prob, abs=1e-4)
            assert step % 3 < 2 or log_prob == pytest.approx(0, abs=1e-6)


def test_constraints_do_not_touch_company():
    model, given = build(), prompts([3, 8, 8, 1, 20, 5, 5, 13])
    free = sample(model, given)
    assert sample(model, given, constraints=[None] * 8) == free
    constraints = [Only({*range(50)} - {9}) if index % 2 else None for index in range(8)]
    mixed = sample(model, given, constraints=constraints)
    assert mixed[::2] == free[::2]
    for batch_size in (1, 3):
        again = sample(model, given, constraints=constraints, batch_size=batch_size)
        assert [completion.tokens for completion in again] == [completion.tokens for completion in mixed]
