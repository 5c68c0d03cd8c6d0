"""A stage's own changes to section `llm` must fit it."""

from __future__ import annotations

from collections.abc import Iterator

from k2core.llm.config import LLMConfig
from k2core.recipe import RecipeError
from stages.grade import Params as Grade
from stages.questions import Params as Questions
from stages.rephrase import Params as Rephrase
from stages.tools import Params as Tools
from stages.trajectories import Params as Trajectories


def servers_of_their_own(
    llm: LLMConfig, grade: Grade, rephrase: Rephrase, questions: Questions, tools: Tools, trajectories: Trajectories
) -> Iterator[str]:
    own = {
        "grade": grade.llm, "rephrase": rephrase.llm, "questions": questions.llm, "tools": tools.llm,
        "trajectories": trajectories.llm,
    }  # fmt: skip
    for name, given in own.items():
        try:
            llm.with_own(given, f"{name}.llm")
        except RecipeError as error:
            yield from str(error).splitlines()
