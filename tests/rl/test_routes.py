"""Routing replay: with the sampler's experts the trainer's log-probabilities are the sampler's, without not."""

import json

import numpy as np
import pytest
import test_loop
import torch
from micro import CharTokenizer, micro_config, micro_model
from test_loop import EPISODES, PROMPTS, assert_equal, iterate, make_training, one_thread, run

from k2core.inference.prefill import recorded
from k2core.inference.responder import Embedded
from k2core.inference.rollouts import begin, go_on
from k2core.inference.trajectory import Trajectory
from k2core.model.transformer import Transformer
from k2core.recipe import RecipeError, validate
from k2core.rl.config import RLConfig
from k2core.rl.routes import disagreement

TOKENIZER = CharTokenizer()
__all__ = ["one_thread"]


def deep_model() -> Transformer:
    """With two layers that have experts: one whose choices for a prompt matter, and the last one."""
    return Transformer(micro_model().config.model_copy(update={"num_hidden_layers": 3}))


@pytest.fixture(autouse=True)
def deeper(monkeypatch):
    monkeypatch.setattr(test_loop, "micro_model", deep_model)


def sampled(model, prompts, budget=None) -> list[Trajectory]:
    trajectories = [each for group in begin(prompts, 6, 3) for each in group]
    while not all(each.over for each in trajectories):
        go_on(Embedded(model, record=True), TOKENIZER, trajectories, temperature=1.0, context=64, token_budget=budget)
        states = [json.loads(json.dumps(each.state())) for each in trajectories]
        trajectories = [
            Trajectory.restored(each.prompt, state, TOKENIZER)
            for each, state in zip(trajectories, states, strict=True)
        ]  # fmt: skip
    return trajectories


@pytest.mark.parametrize("prompts", [PROMPTS, EPISODES], ids=["replies", "episodes"])
@pytest.mark.parametrize("budget", [None, 2], ids=["whole", "paused"])
def test_the_recorded_experts_are_those_of_the_whole_text(prompts, budget):
    """Of shared prefills, of batches that shrink, of responses that were paused, written down and went on."""
    model = deep_model()
    for each in sampled(model, prompts, budget):
        text = torch.tensor([[*each.prompt.tokens, *each.tokens]])
        for router in model.routers():
            router.recording = True
        with torch.no_grad():
            model(text)
        wanted = recorded(model.routers(), text.shape[1])[:-1].sort(dim=-1).values.numpy()
        known = each.routes >= 0
        assert known.shape == wanted.shape and known[:, 0].all()
        says = np.array(each.mask, dtype=bool)
        assert known[len(each.prompt.tokens) - 1 :, 1][says].all(), "what a response is sampled from is known"
        assert (np.sort(each.routes, axis=-1) == wanted)[known].all()


def disagreeing(folder, replay: bool, **changes):
    """A training whose sampler chooses other experts than the trainer: their biases differ, the weights do not."""
    training = make_training(folder, replay_routes=replay, **changes)
    theirs = deep_model()
    theirs.load_state_dict(training.model.state_dict())
    for router in theirs.routers():
        router.e_score_correction_bias += torch.tensor([0.3, -0.3, 0.1, 0.0])
    training.respond = Embedded(theirs, record=replay)
    return training


@pytest.mark.parametrize("prompts", [PROMPTS, EPISODES], ids=["replies", "episodes"])
def test_with_replay_sampler_and_trainer_agree_though_their_routers_do_not(tmp_path, prompts):
    rows = []
    for replay in (True, False):
        training = disagreeing(tmp_path / str(replay), replay, prompts=6, samples=16)
        training.prompts = prompts
        rows.append(iterate(training))
        assert all(router.replayed_NK is None for router in training.model.routers())
    with_replay, without = rows
    assert with_replay["log_ratio/first_max"] < 1e-4 < 1e-2 < without["log_ratio/first_max"]
    assert 0.2 < with_replay["routes/disagreement"] <= 1 and "routes/disagreement" not in without


def test_the_routers_learn_under_replay(tmp_path):
    """The choice is the sampler's; the weights of the experts, and their gradient, are the trainer's."""
    training = disagreeing(tmp_path, True, ptx_weight=0.0)
    before = training.model.routers()[0].weight.detach().clone()
    iterate(training)
    assert not torch.equal(training.model.routers()[0].weight, before)
    assert disagreement(training.model, training.ranks.sum) is None


def test_where_they_agree_replay_changes_nothing(tmp_path, one_thread):
    plain, replayed = (make_training(tmp_path / str(on), replay_routes=on) for on in (False, True))
    plain.respond = Embedded(plain.model, record=True)  # decodes as the other does
    plain._ended = lambda trajectories, ended=plain._ended: [
        type(rollout)(**{**vars(rollout), "routes": None}) for rollout in ended(trajectories)
    ]
    run(plain, tmp_path / "False")
    run(replayed, tmp_path / "True")
    assert_equal(replayed, plain)
    found = [row["routes/disagreement"] for row in replayed.history.rows if "routes/disagreement" in row]
    assert found and max(found) == 0


def test_replay_with_a_server_is_refused():
    server = {"engine": "sglang", "base_url": "http://host:1", "folder": "f"}
    known = micro_config().model_dump() | {"rollouts": server, "replay_routes": True}
    with pytest.raises(RecipeError, match=r"replay_routes needs rollouts.engine embedded"):
        validate(RLConfig, known, "params.yaml: rl")
