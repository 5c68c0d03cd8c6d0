"""What each ablation takes away from the agentic part of a recipe: an edit of the recipe, other dialogues, or both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from k2core.agentic.dialogues.play import Player, Trajectory
from k2core.agentic.dialogues.proof import fault
from k2core.agentic.tasks.richer import RicherMaker
from k2core.agentic.tasks.task import TaskMaker
from k2core.agentic.tools.specs import read_tools
from k2core.gym.demonstrations import is_heldout, read_trajectories
from k2core.recipe import validate
from k2core.synthesis.values import Values
from stages.tasks import Params as Tasks
from stages.trajectories import Params as Playing

Recipe = dict[str, Any]
FULL = "full"
RECALL = "recall"
"""The domain of the documents that can only be continued by copying."""
LIST = 14
"""Values of each kind in the closed lists."""


@dataclass(frozen=True)
class Arm:
    """One ablation.

    Attributes:
        says: what it is, for a reader of the table.
        edit: the recipe that it is trained with.
        dialogues: those that its SFT imitates, given the workspace and its recipe.
        pretrains: whether its base is trained anew too.
    """

    says: str
    edit: Callable[[Recipe], Recipe] = lambda recipe: recipe
    dialogues: Callable[[Path, Recipe], list[Trajectory]] = lambda workspace, _: _accepted(workspace)
    pretrains: bool = False


class Closed(Values):
    """Values of closed lists: each kind has `LIST` of them."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        opened, random = Values(), Random(f"{seed}/closed")
        for kind in ("person", "name", "phrase", "text", "code", "digits"):
            values = [getattr(opened, kind)(random) for _ in range(LIST)]
            setattr(self, kind, partial(_one_of, values))


def _one_of(values: list[str], random: Random) -> str:
    return random.choice(values)


def _accepted(workspace: Path) -> list[Trajectory]:
    return read_trajectories(workspace / "data/trajectories/accepted.jsonl")


def _heldout(workspace: Path, _: Recipe) -> list[Trajectory]:
    """Only the tenth that SFT measures its loss on."""
    return [row for row in _accepted(workspace) if is_heldout(row)]


def _unjudged(workspace: Path, _: Recipe) -> list[Trajectory]:
    """The first dialogue of each task and agent, whatever the judge said."""
    rejected = read_trajectories(workspace / "data/trajectories/rejected.jsonl")
    return [row for row in [*_accepted(workspace), *rejected] if row["id"].endswith("/0")]


def _closed(workspace: Path, recipe: Recipe) -> list[Trajectory]:
    """The oracle's dialogues about as many tasks of the same kinds, with values of closed lists; real servers' stay."""
    tools = read_tools(workspace / "data/tools/tools.jsonl")
    wanted, how = validate(Tasks, recipe["tasks"], "tasks"), validate(Playing, recipe["trajectories"], "trajectories")
    seed: int = recipe["compute"]["seed"]
    maker = TaskMaker(tools, wanted.mix, seed, wanted.declared_share, Closed(seed))
    richer = RicherMaker(tools, wanted.richer.mix, wanted.richer.calls, seed, Closed(seed))
    tasks = [maker.task("train", number) for number in range(wanted.train)]
    tasks += maker.twins(wanted.train, wanted.twins)
    tasks += [richer.task("train", number) for number in range(wanted.richer.train)]
    player = Player(tools, seed, how.failure_rate)
    played = [
        row for task in tasks if not fault(task, tools) for row in player.oracle(task, how.attempts, how.mistake_rate)
    ]
    return [row for row in played if row["verdict"]["passed"]] + [
        row for row in _accepted(workspace) if row["kind"] == "mcp"
    ]


def _no_replay(recipe: Recipe) -> Recipe:
    return recipe | {"sft": recipe["sft"] | {"text": {}}}


def _steps(share: float) -> Callable[[Recipe], Recipe]:
    """The recipe with `share` times the steps of SFT, their schedule as long as they are."""

    def edited(recipe: Recipe) -> Recipe:
        return recipe | {"sft": recipe["sft"] | {"steps": round(share * recipe["sft"]["steps"])}}

    return edited


def _no_spikes(recipe: Recipe) -> Recipe:
    """Batches of short answers and few dialogues differ so much that the recipe's rule stops the training."""
    return recipe | {"spikes": recipe["spikes"] | {"deviations": 1000.0}}


def _no_copying(recipe: Recipe) -> Recipe:
    def without(weights: dict[str, float]) -> dict[str, float]:
        """The other domains, in their proportions, with the same sum."""
        rest = {name: weight for name, weight in weights.items() if name != RECALL}
        return {name: weight * sum(weights.values()) / sum(rest.values()) for name, weight in rest.items()}

    def phase(content: Recipe) -> Recipe:
        return content | {"mixture": without(content["mixture"])}

    return recipe | {
        "pretrain": {name: phase(content) for name, content in recipe["pretrain"].items()},
        "extend_context": phase(recipe["extend_context"]) | {"control": False},
        "sft": recipe["sft"] | {"text": without(recipe["sft"]["text"])},
    }


ARMS = {
    FULL: Arm("the recipe"),
    "no_trajectories": Arm("no tool dialogues in SFT", edit=_no_spikes, dialogues=_heldout),
    "judge_off": Arm("the first dialogue of each task, unjudged", dialogues=_unjudged),
    "closed_values": Arm(f"values from lists of {LIST}", dialogues=_closed),
    "no_replay": Arm("no text of pre-training in SFT", edit=_no_replay),
    "no_copying": Arm("no documents that teach copying, in pre-training and SFT", edit=_no_copying, pretrains=True),
    "half_steps": Arm("half the steps of SFT", edit=_steps(0.5)),
    "double_steps": Arm("twice the steps of SFT", edit=_steps(2)),
}
