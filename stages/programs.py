"""Coding problems with hidden tests, and repositories with a proved mistake, for the gym (K2 §3.1, §3.2).

Problems come from files in known formats; one whose own solution fails its tests is set aside. Repository tasks are
made from installed packages: a mistake in a function that the package's tests reach, for which these tests fail, and
pass again with the true mend. All code runs in the sandbox.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, PositiveInt

from k2core.coding.formats import ProblemFile
from k2core.machine import Compute
from k2core.recipe import Section
from k2core.sandbox.config import SandboxConfig
from k2core.stage import Job, Metrics, main

if TYPE_CHECKING:
    from k2core.coding.problem import Problem

SECTION = "programs"


class Params(Section):
    """Which problems and repositories."""

    problems: dict[str, ProblemFile] = Field(description="files of coding problems, by name (docs/programs.md)")
    packages: dict[str, PositiveInt] = Field(
        description="repository tasks from each installed package with tests, at most, by import name"
    )
    test_files: int = Field(ge=1, description="files of tests of a package that are used, from the first on")


def run(params: Params, compute: Compute, sandbox: SandboxConfig, out: Path, job: Job) -> Metrics:
    """Write `problems.jsonl`, `repairs.jsonl` and `set_aside.jsonl`."""
    sandbox.apply()
    from k2core.coding.formats import problems
    from k2core.gym import coding, swe
    from k2core.storage import write_lines
    from k2core.swe.prove import Funnel, tasks
    from k2core.swe.repository import repository

    figures: Metrics = {}
    kept: list[Problem] = []
    set_aside = []
    for name, file in params.problems.items():
        found = list(problems(name, file))
        job.say(f"{len(found)} problems of {name}, whose own solutions are run")
        right, wrong = _solved(found)
        kept += right
        set_aside += [{"id": problem.id, "reason": reason} for problem, reason in wrong]
        figures |= {f"problems/{name}": float(len(right)), f"problems_refused/{name}": float(len(wrong))}
    repairs = []
    for name, count in params.packages.items():
        package = repository(name)
        job.say(f"{count} mistakes in {name} {package.version} ({package.license}), each proved by its tests")
        funnel = Funnel()
        made = tasks(package, count, compute.seed, test_files=params.test_files, funnel=funnel, job=job)
        repairs += made
        figures |= {f"repairs/{name}": float(len(made)), f"tried/{name}": float(funnel.tried)}
        for reason, number in sorted(funnel.why.items()):
            figures[f"why/{reason.replace(' ', '_')}"] = figures.get(f"why/{reason.replace(' ', '_')}", 0.0) + number
    out.mkdir()
    coding.write_problems(out / coding.FILE, kept)
    write_lines(out / swe.FILE, repairs)
    write_lines(out / "set_aside.jsonl", set_aside)
    return {
        "problems": float(len(kept)),
        "repairs": float(len(repairs)),
        "packages": float(len(params.packages)),
    } | figures


def _solved(found: list[Problem]) -> tuple[list[Problem], list[tuple[Problem, str]]]:
    """Problems whose own solution passes, or that have none; and the others with the reason."""
    from concurrent.futures import ThreadPoolExecutor

    from k2core.coding.judge import Verdict, judge

    def check(problem: Problem) -> Verdict:
        return judge(problem, problem.gold) if problem.gold else Verdict(True)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        verdicts = list(pool.map(check, found))
    judged = list(zip(found, verdicts, strict=True))
    wrong = [(problem, verdict.reason) for problem, verdict in judged if not verdict.passed]
    return [problem for problem, verdict in judged if verdict.passed], wrong


if __name__ == "__main__":
    main(run, SECTION)
