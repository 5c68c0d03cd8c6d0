"""Problems of the source `mathematics` as question-answer pairs: the model's solution where it is right.

reasoning-gym makes each problem again from its origin and scores the solutions; where none is right, the worked
solution of the document is the answer.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from k2core.corpus.sources.builtin import mathematics
from k2core.llm.client import Request
from k2core.recipe import RecipeError
from k2core.synthesis.questions.pairs import ACCEPTED, Outcome, Pair, Row, Sampling, dialogue

if TYPE_CHECKING:
    from tqdm import tqdm

    from k2core.llm.client import LLM

SOLVED, WORKED = "solved", "worked"
_ORIGIN = re.compile(r"pypi:reasoning-gym==[^:]+:(?P<task>\w+)\?seed=(?P<seed>\d+)&item=(?P<item>\d+)$")
_LONGEST_RESULT = 200
_SOLVE = "Solve the problem. End with a line that says Answer: and the result.\n\n{problem}"
_EXAMPLES = (
    ("Tom has 3 apples and buys 2 bags of 4 apples. How many has he?", "2 * 4 = 8\n3 + 8 = 11\nAnswer: 11"),
    ("Solve for x: 2*x + 3 = 11", "2*x = 11 - 3 = 8\nx = 8 / 2 = 4\nAnswer: 4"),
)


@dataclass(frozen=True)
class Problem:
    """A problem, its worked solution, and where reasoning-gym makes it: `task`, `seed`, `item`."""

    source_id: str
    text: str
    worked: str
    task: str
    seed: int
    item: int

    def solved_by(self, solution: str) -> bool:
        """Whether reasoning-gym gives the solution's last line, "Answer: …", the full score."""
        result = solution.rstrip().rpartition("\n")[2].partition("Answer:")[2].strip()
        if not 0 < len(result) <= _LONGEST_RESULT:
            return False
        dataset = _dataset(self.task, self.seed, self.item.bit_length())
        return float(dataset.score_answer(result, dataset[self.item])) == 1.0


def problem_of(row: Row) -> Problem:
    """The problem in a document of the source `mathematics`.

    Raises:
        RecipeError: the installed reasoning-gym makes another problem from the document's origin.
    """
    found = _ORIGIN.match(row["origin"])
    task, seed, item = (found["task"], int(found["seed"]), int(found["item"])) if found else ("", 0, 0)
    entry = _dataset(task, seed, item.bit_length())[item] if found else None
    if not entry or mathematics.render(task, entry) != row["text"]:
        raise RecipeError(
            f"questions.problems: the installed reasoning-gym does not make {row['id']} from {row['origin']}; "
            "run ingest again"
        )
    body, asked = row["text"].removeprefix("Problem: "), entry["question"].strip()
    end = next((at for at, (one, other) in enumerate(zip(asked, body, strict=False)) if one != other), len(asked))
    return Problem(row["id"], body[:end].strip(), body[end:].strip(), task, seed, item)


def solve(
    llm: LLM, problems: Sequence[Problem], sampling: Sampling, tokens: int, seed: int, bar: tqdm | None = None
) -> list[Outcome]:
    """For each problem its first right solution of `sampling.samples`, else the last wrong one with the reason."""
    requests = [
        Request(
            dialogue([*((_SOLVE.format(problem=text), said) for text, said in _EXAMPLES),
                      (_SOLVE.format(problem=problem.text), "")]),
            tokens, sampling.temperature, seed + place,
        )
        for problem in problems
        for place in range(sampling.samples)
    ]  # fmt: skip
    said = [answer.text.strip() for answer in llm.complete_many(requests, bar)]
    outcomes = []
    for place, problem in enumerate(problems):
        own = said[place * sampling.samples : (place + 1) * sampling.samples]
        right = [solution for solution in own if problem.solved_by(solution)]
        pair = Pair(SOLVED, problem.source_id, problem.text, problem.text, (right or own)[0])
        outcomes.append(Outcome(pair, ACCEPTED if right else "wrong_solution", len(right)))
    return outcomes


def worked(problem: Problem) -> Pair:
    """The problem with its worked solution."""
    return Pair(WORKED, problem.source_id, problem.text, problem.text, problem.worked)


@cache
def _dataset(task: str, seed: int, bits: int) -> Any:
    """reasoning-gym's data set of `2**bits` items (some tasks draw a list as long as the set).

    Importing the library takes seconds, so it is done here.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)  # of a library that it imports
        import reasoning_gym

    return reasoning_gym.create_dataset(task, seed=seed, size=1 << bits)
