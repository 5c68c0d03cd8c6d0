"""What an environment of a recipe asks, and what it pays for the right reply and for none.

python -m k2core.gym params.yaml sort_numbers
"""

from __future__ import annotations

from pathlib import Path

import typer

from k2core.chat.special_tokens import IM_END
from k2core.chat.template import reply_text
from k2core.gym.base import Split
from k2core.gym.judging import Models
from k2core.gym.registry import select, text_environments
from k2core.gym.settings import GymConfig
from k2core.recipe import RecipeError, load_section
from k2core.stage import StageError

MOST = 32
"""Items of each split that are tried."""

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def main(
    recipe: Path = typer.Argument(help="a whole recipe, such as params.yaml, or one with a section gym"),
    name: str = typer.Argument(help="of an environment that needs no files of a run"),
    items: int = typer.Option(3, min=1, help="items that are shown; all count"),
) -> None:
    """Show items, and try the gold reply, an empty one and the prompt itself on all of them."""
    try:
        gym = load_section(GymConfig, recipe, "gym")
        environments = text_environments(gym, Models(gym.llm))
        environment = environments[next(iter(select(environments, {name: items}, str(recipe))))]
        splits: tuple[Split, Split] = ("train", "heldout")
        drawn = [environment.item(0, each, n) for each in splits for n in range(min(environment.size(each), MOST))]
        for item in drawn[:items]:
            print(f"--- {item.key}\n{item.messages[-1]['content']}\n=> {item.gold['content']}\n")
        replies = {
            "the right reply": [reply_text(item.gold) for item in drawn], "none": [IM_END for _ in drawn],
            "the prompt": [f"{item.messages[-1]['content']}{IM_END}" for item in drawn],
        }  # fmt: skip
        for what, each in replies.items():
            rewards = [environment.score(item, reply) for item, reply in zip(drawn, each, strict=True)]
            print(f"{what}: mean reward {sum(rewards) / len(rewards):.3f} of {len(rewards)} items")
    except (RecipeError, StageError, ValueError) as error:
        print(error)
        raise typer.Exit(1) from None


if __name__ == "__main__":
    app()
