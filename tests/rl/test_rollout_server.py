"""Rollouts by a server: the same iterations as with the sampler in this process, and a sentence for each fault."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from micro import CharTokenizer, micro_config
from serving import served
from stand_in import StandIn
from test_loop import EPISODES, PROMPTS, iterate, make_training

from k2core.formats.huggingface import save_huggingface
from k2core.inference.responder import Due
from k2core.llm.client import LLMUnavailable
from k2core.recipe import RecipeError, validate
from k2core.rl import server as module
from k2core.rl.config import RLConfig
from k2core.rl.engine import RolloutsConfig
from k2core.rl.server import Server
from k2core.stage import StageError

STOP = CharTokenizer.im_end_id
KINDS = ["openai", "sglang"]


@pytest.fixture
def stand_in(tmp_path, monkeypatch) -> Iterator[StandIn]:
    """A server with the weights that the trainings of this file begin with, at `address`."""
    torch.manual_seed(0)
    start = make_training(tmp_path / "start").model
    save_huggingface(start, tmp_path / "first", eos_token_ids=[STOP])
    made, seed_of = StandIn(tmp_path / "first"), module.seed_of

    def noted(stream: str, begun: int) -> int:
        seed = seed_of(stream, begun)
        made.names[seed] = stream, begun
        return seed

    monkeypatch.setattr(module, "seed_of", noted)
    with served(made.app) as address:
        made.address = address
        yield made


def training_by(stand_in: StandIn, kind: str, folder: Path, prompts=PROMPTS, **changes):
    """A training whose rollouts `stand_in` samples."""
    training = make_training(folder, temperature_start=0.7, temperature_end=0.7, **changes)
    config = RolloutsConfig(
        engine=kind, base_url=stand_in.address, model="policy", folder=str(folder / "policies"), concurrency=4,
        timeout_s=60.0, most_disagreement=0.02,
    )  # fmt: skip
    training.respond, training.prompts = Server(config, training.model, STOP), prompts
    return training


@pytest.mark.parametrize("prompts", [PROMPTS, EPISODES], ids=["replies", "episodes"])
@pytest.mark.parametrize("budget", [None, 5], ids=["whole", "partial"])
@pytest.mark.parametrize("kind", KINDS)
def test_iterations_by_a_server_are_those_of_this_process(stand_in, tmp_path, kind, budget, prompts):
    ours = make_training(tmp_path / "ours", temperature_start=0.7, temperature_end=0.7, token_budget=budget)
    ours.prompts = prompts
    theirs = training_by(stand_in, kind, tmp_path / "theirs", prompts, token_budget=budget)
    said: dict[str, list] = {"ours": [], "theirs": []}
    for name, training in (("ours", ours), ("theirs", theirs)):
        training._ended = lambda trajectories, name=name, ended=training._ended: (
            said[name].append(ended(trajectories)) or said[name][-1]
        )
    for _ in range(3):
        own, other = iterate(ours), iterate(theirs)
        assert other.pop("rollouts/disagreement") < 1e-4
        assert other == pytest.approx(own, abs=2e-3)
    assert said["ours"] and len(said["ours"]) == len(said["theirs"])
    for group, found in zip(said["ours"], said["theirs"], strict=True):
        for wanted, rollout in zip(group, found, strict=True):
            assert (rollout.tokens, rollout.mask, rollout.versions) == (wanted.tokens, wanted.mask, wanted.versions)
            assert rollout.log_probs == pytest.approx(wanted.log_probs, abs=1e-4)
    for (name, wanted), (_, tensor) in zip(
        ours.model.state_dict().items(), theirs.model.state_dict().items(), strict=True
    ):
        torch.testing.assert_close(tensor, wanted, atol=1e-4, rtol=1e-3, msg=name)
    assert [Path(folder).name for folder in stand_in.loaded] == [f"policy-{number:06d}" for number in range(3)]
    kept = sorted(path.name for path in (tmp_path / "theirs" / "policies").iterdir())
    assert kept == ["policy-000001", "policy-000002"], "older versions are removed"
    times = theirs._times()
    assert times["time/rollout"] > times["time/sync"] > 0 and times["time/wait"] >= 0 < times["time/training"]


@pytest.mark.parametrize("kind", KINDS)
def test_old_weights_are_noticed(stand_in, tmp_path, kind):
    training = training_by(stand_in, kind, tmp_path)
    iterate(training)
    stand_in.fault = "stale"
    with pytest.raises(StageError, match="still has the weights of version 0 of the policy after it was told to load"):
        iterate(training)


@pytest.mark.parametrize("kind", KINDS)
def test_other_weights_are_noticed(stand_in, tmp_path, kind):
    stand_in.fault = "stale"
    training = training_by(stand_in, kind, tmp_path)
    with torch.no_grad():
        for weight in training.model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    with pytest.raises(StageError, match=r"and the trainer differ by .* nats per token on a given text"):
        iterate(training)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raw", "nats per token on what it sampled.*processed_logprobs"),
        ("prompt", "(answered another prompt than the token ids that it was given|read . tokens of a prompt of 3)"),
        ("bare", "without token ids or without log-probabilities"),
        ("long", "gave .* tokens where 1 to 6 were asked for"),
        ("broken", "with status 500: out of memory"),
    ],
)
def test_faults_end_in_a_sentence(stand_in, tmp_path, kind, fault, said):
    training = training_by(stand_in, kind, tmp_path)
    stand_in.fault = fault
    with pytest.raises(StageError, match=f"rl.rollouts: the server at {stand_in.address} .*{said}"):
        iterate(training)


def test_a_version_that_is_another_is_noticed(stand_in, tmp_path):
    training = training_by(stand_in, "sglang", tmp_path)
    stand_in.fault = "version"
    with pytest.raises(StageError, match="answers with weights of version 7, the policy is version 0"):
        iterate(training)


def test_a_dead_server_is_one_sentence_and_the_stage_can_be_tried_again(tmp_path):
    training = make_training(tmp_path)
    config = RolloutsConfig(engine="openai", base_url="http://127.0.0.1:9", model="policy", folder=str(tmp_path / "p"))
    training.respond = Server(config, training.model, STOP)
    with pytest.raises(LLMUnavailable, match=r"rl.rollouts: http://127.0.0.1:9 cannot be reached .*; start the server"):
        iterate(training)


def test_what_a_server_needs_is_asked_for_on_load():
    known = micro_config().model_dump() | {"rollouts": {"engine": "openai", "base_url": "http://host:8000"}}
    with pytest.raises(RecipeError, match=r"rollouts.*engine openai needs model and folder"):
        validate(RLConfig, known, "params.yaml: rl")


def test_a_repetition_is_cut_and_another_stop_token_cuts_too(stand_in, tmp_path):
    training = training_by(stand_in, "openai", tmp_path)
    stand_in._say = lambda prompt, most, *rest: module.Completion([5] * most, [-0.1] * most, "length")
    training.respond._score = lambda *_: None
    due = [Due((3, 4, 5), module.Completion([5, 5], [-0.2, -0.2], "paused"), 30, "1/0")]
    (made,) = training.respond(due, version=0, most=40, temperature=1.0, stop_id=STOP, repetition=8)
    assert made.tokens == [5] * 8 and made.log_probs == [-0.2] * 2 + [-0.1] * 6 and made.finish_reason == "length"
    stand_in._say = lambda prompt, most, *rest: module.Completion([6, 0], [-0.1] * 2, "stop")
    (made,) = training.respond(due, version=0, most=40, temperature=1.0, stop_id=STOP, repetition=None)
    assert made.tokens == [5, 5, 6, 0] and made.finish_reason == "length", "it ended, but not with the end of a turn"
