"""Fine-tuning on dialogues and RL in two gloo processes, against one: equal tokens, losses, gradients, weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from micro import CHECKPOINT, SPIKES, CharTokenizer, job_in, micro_config, micro_model, micro_optimizer
from processes import everything, sharing
from processes import run as run_processes
from test_loop import PROMPTS, STOP
from test_refinement import Words, pairs

from k2core.inference.rollouts import Prompt
from k2core.recipe import RecipeError
from k2core.rl.critique import Critique, OpenRequest
from k2core.rl.curriculum import PrioritizedSampler
from k2core.rl.loop import Critic, PolicyTraining
from k2core.rl.policy_loss import PolicyLoss
from k2core.rl.refinement import Refinement
from k2core.training.config import ParallelConfig
from k2core.training.dialogues import Dialogue, DialogueSource, dialogue_loss
from k2core.training.fine_tuning import FineTuning
from k2core.training.learner import Learner
from k2core.training.ranks import Ranks
from k2core.training.setting import Setting
from k2core.training.trainer import Plan, train

DIALOGUES = [
    Dialogue([3, 4, n % 4 + 2, *[6 + n % 2] * (1 + n % 5), STOP], [0, 0, 0, *[1] * (2 + n % 5)]) for n in range(9)
]
TUNING = FineTuning(
    context=32, batch_rows=4, steps=4, muon_lr=0.02, adamw_lr=0.02, warmup_steps=1, final_lr_share=0.1, log_every=1,
    checkpoint_every=10,
)  # fmt: skip
BOUND = {"atol": 2e-5, "rtol": 2e-5}


def mesh(processes: int, **sizes: Any) -> ParallelConfig:
    return sharing(processes, micro_batch_tokens=24, **sizes)


def spread(parallel: ParallelConfig, rank: int) -> tuple[Ranks, Any, Any]:
    """This process's place, the model shared out, and a whole one to sample from."""
    os.environ["RANK"] = str(rank)
    torch.manual_seed(0)
    model, ranks = micro_model(), Ranks(parallel.processes, rank, parallel.context, parallel.pipeline)
    sampler = ranks.whole(model)
    ranks.spread(model, parallel)
    return ranks, model, sampler


def noted(optimizer: Any, model: Any) -> list[dict[str, torch.Tensor]]:
    """The gradients before each of the optimiser's steps, whole, of all layers."""
    found: list[dict[str, torch.Tensor]] = []
    step = optimizer.step

    def stepped(*arguments: Any) -> dict[str, float]:
        own = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
        found.append(everything(own, model.stages))
        return step(*arguments)

    optimizer.step = stepped
    return found


def reinforced(folder: Path, parallel: ParallelConfig, rank: int, shared: int, **changes: Any) -> dict[str, Any]:
    """Two iterations of RL with a critic: what was sampled, the metrics, the policy's gradients, all weights."""
    ranks, model, sampler = spread(parallel, rank)
    judge = spread(parallel, rank)[1]
    optimizer = micro_optimizer(model)
    gradients = noted(optimizer, model)
    folder.mkdir(exist_ok=True, parents=True)
    critic = Refinement(
        Learner(judge, micro_optimizer(judge)), Words(), pairs(0, 5), asked=3, pairs=2, context=256, ranks=ranks
    )
    requests = [OpenRequest(Prompt((3, 4), 6, lambda text: 0.0), "q") for _ in range(4)]
    training = PolicyTraining(
        Learner(model, optimizer),
        micro_config(
            minibatches=2, passes=2, prompts=3, ptx_rows=2, microbatch_rows=1, context=32, critique_every=1,
            critique_prompts=2, critique_pairs=2, **changes,
        ),
        Setting(job_in(folder), SPIKES, CHECKPOINT, ranks), 7,
        curriculum=PrioritizedSampler([0.5] * len(PROMPTS), momentum=0.5, floor=0.05), tokenizer=CharTokenizer(),
        prompts=PROMPTS, ptx=DialogueSource(DIALOGUES, context=10, batch_rows=2, seed=0, shared=shared),
        requests=["q"] * len(PROMPTS), open_prompts=[each.prompt for each in requests], sampler=sampler,
        critic=Critic(critic, Critique(critic.read, Words(), requests, 256)),
    )  # fmt: skip
    sample, tokens = training._sample, []

    def sampled(*arguments: Any) -> Any:
        groups = sample(*arguments)
        tokens.append([rollout.tokens for group in groups for rollout in group])
        return groups

    training._sample = sampled  # type: ignore[method-assign]
    metrics = []
    for _ in range(2):
        metrics.append(training.advance())
        training.step += 1
    return {"tokens": tokens, "metrics": metrics, "gradients": gradients,
            "weights": everything(training.weights().state_dict(), model.stages)}  # fmt: skip


def tuned(folder: Path, parallel: ParallelConfig, rank: int, shared: int) -> dict[str, Any]:
    """Four steps on dialogues, in rows that `shared` processes can cut, and the loss on some before and after."""
    ranks, model, _ = spread(parallel, rank)
    optimizer = micro_optimizer(model)
    gradients = noted(optimizer, model)
    folder.mkdir(exist_ok=True, parents=True)
    source = DialogueSource(DIALOGUES, context=10, batch_rows=4, seed=0, shared=shared)

    def measured() -> float:
        return dialogue_loss(ranks.whole_rows(model), DIALOGUES[:4], context=10, batch_rows=2)

    losses = [measured()]
    setting = Setting(job_in(folder), SPIKES, CHECKPOINT, ranks, parallel.at_once)
    result = train(Learner(model, optimizer), Plan(source, TUNING), setting, folder / "plot.csv")
    return {"tokens": [], "metrics": [*result.rows, {"before": losses[0], "after": measured()}], "gradients": gradients,
            "weights": everything(model.state_dict(), model.stages)}  # fmt: skip


def on_rank(rank: int, processes: int, folder: Path, way: str, sizes: dict[str, Any]) -> dict[str, Any]:
    work = reinforced if way == "reinforced" else tuned
    return work(folder, mesh(processes, **sizes), rank, sizes.get("context", 1))


def assert_close(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found["tokens"] == wanted["tokens"]
    for own, alone in zip(found["metrics"], wanted["metrics"], strict=True):
        assert own == {name: pytest.approx(value, rel=2e-5, abs=2e-5) for name, value in alone.items()}
    for own, alone in zip(
        [*found["gradients"], found["weights"]], [*wanted["gradients"], wanted["weights"]], strict=True
    ):
        assert own.keys() == alone.keys()
        for name, tensor in alone.items():
            torch.testing.assert_close(own[name], tensor, msg=lambda text, name=name: f"{name}: {text}", **BOUND)


def pad_as(sizes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on a process alone has rows as wide as processes of these sizes have: routers count padding too."""
    shared = Ranks(context=sizes.get("context", 1))
    monkeypatch.setattr(Ranks, "columns", lambda self, width, columns=Ranks.columns: columns(shared, width))
    if "pipeline" in sizes:
        monkeypatch.setattr(
            PolicyLoss, "_width", lambda self, rows, width=PolicyLoss._width: width(self, [*self._rows(), *rows])
        )


@pytest.mark.parametrize("sizes", [{}, {"experts": 2}, {"context": 2}, {"pipeline": 2}])
def test_rl_in_two_processes_samples_and_learns_as_in_one(
    tmp_path: Path, sizes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    results = run_processes(2, on_rank, tmp_path, tmp_path / "work", "reinforced", sizes)
    pad_as(sizes, monkeypatch)
    wanted = reinforced(tmp_path / "alone", mesh(1), 0, sizes.get("context", 1))
    assert any(gradient.any() for step in wanted["gradients"] for gradient in step.values())
    assert all("critique/loss" in row for row in wanted["metrics"]) and "critique/spread" in wanted["metrics"][0]
    for found in results:
        assert_close(found, wanted)


@pytest.mark.parametrize("sizes", [{}, {"experts": 2}, {"context": 2}, {"pipeline": 2}])
def test_fine_tuning_in_two_processes_equals_one(tmp_path: Path, sizes: dict[str, Any]) -> None:
    wanted = tuned(tmp_path / "alone", mesh(1), 0, sizes.get("context", 1))
    for found in run_processes(2, on_rank, tmp_path, tmp_path / "work", "tuned", sizes):
        assert_close(found, wanted)


def test_what_rl_has_no_processes_for_is_refused() -> None:
    micro_config().check(mesh(1))
    for parallel, changes, message in (
        (mesh(2, pipeline=2), {"replay_routes": True}, "parallel.pipeline 1, which is 2"),
        (mesh(2, context=2), {"replay_routes": True}, "parallel.context 1, which is 2"),
        (mesh(2, pipeline=2), {}, "rl.microbatch_rows is 4, but a pipeline"),
        (mesh(2), {"token_budget": 4}, "rl.token_budget"),
        (mesh(2), {"ptx_rows": 3}, "2 or 4 rows"),
    ):
        with pytest.raises(RecipeError, match=message):
            micro_config(**changes).check(parallel)
