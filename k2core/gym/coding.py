"""Coding problems of a file: an answer is a program, rewarded by hidden tests in the sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from k2core.chat.special_tokens import IM_END
from k2core.coding.judge import judge
from k2core.coding.problem import Case, Problem, Suite
from k2core.gym.base import Item, Split, answer, question
from k2core.storage import StorageError, read_lines, write_lines

FILE = "problems.jsonl"


@dataclass(frozen=True)
class Coding:
    """The problems that have a right program, by split; the seed plays no part."""

    problems: dict[Split, list[Problem]]
    name: str = "coding"
    max_new_tokens: int = 512

    @classmethod
    def load(cls, folder: Path) -> Coding:
        """Read `problems.jsonl`.

        Raises:
            StorageError: it is missing, torn, or not one of ours.
        """
        found = read_problems(folder / FILE)
        return cls({split: [each for each in found if each.split == split] for split in ("train", "heldout")})

    def size(self, split: Split) -> int:
        return len(self.problems[split])

    def item(self, seed: int, split: Split, index: int) -> Item:
        """Problem number `index` of the split."""
        problem = self.problems[split][index]
        asked = f"{problem.text}\n```python\n{problem.start}```" if problem.start else problem.text
        return Item(
            key=f"{self.name}/{problem.id}", messages=question(asked), gold=answer(f"```python\n{problem.gold}\n```"),
            meta={"problem": problem},
        )  # fmt: skip

    def score(self, item: Item, completion: str) -> float:
        """1 if the answer's program passes the hidden tests, else 0."""
        problem: Problem = item.meta["problem"]
        return float(judge(problem, problem.program(completion.removesuffix(IM_END))).passed)


def write_problems(path: Path, problems: Sequence[Problem]) -> int:
    """Write `problems.jsonl`, one problem per line."""
    return write_lines(path, map(asdict, problems))


def read_problems(path: Path) -> list[Problem]:
    """The problems of `problems.jsonl`.

    Raises:
        StorageError: it is missing, torn, or a line is no problem.
    """
    try:
        return [
            Problem(**row | {key: _tests(row[key]) for key in ("public", "hidden")}) for row in read_lines(path)
        ]  # fmt: skip
    except (TypeError, KeyError) as error:
        raise StorageError(f"{path}: a line is no problem ({error}); run the stage `programs` again") from None


def _tests(row: dict) -> Suite:
    return Suite(row["code"], tuple(Case(**case) for case in row["cases"]))
