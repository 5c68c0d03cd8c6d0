"""Coding problems and repository tasks at full size: what passes, what fails, what is proved.

At full scale docs/programs.md gets the tables. The figures are of correctness; no machine needs to be idle for them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.harness import ROOT, Entry, measured
from benchmarks.pages import rewrite
from benchmarks.sandbox import WORKERS
from benchmarks.scale import Scale
from benchmarks.tricks import on_problems, on_repository, table
from k2core.coding.formats import ProblemFile, problems
from k2core.coding.judge import judge
from k2core.coding.mutation import mutations
from k2core.coding.problem import Problem
from k2core.recipe import load_section
from k2core.stage import Job, code_digest
from k2core.storage.atomic import remove
from k2core.swe.prove import PROVED, Funnel, hollow, tasks
from k2core.swe.repository import repository
from k2core.swe.task import Files, Task, broken, gold_patch, patched, verdict
from stages.programs import Params

TOPIC = "programs"
DOC = ROOT / "docs" / "programs.md"
SEED = 7
SAMPLE = 30
"""Repository tasks that are answered."""


@dataclass(frozen=True)
class Passed:
    """Of HumanEval: how many right programs, empty answers and programs with a mistake there are, and how many pass."""

    gold: tuple[int, int]
    nothing: tuple[int, int]
    mistakes: tuple[int, int]


def humaneval(most: int, each: int) -> Passed:
    """Judge `most` problems, with at most `each` mistakes in each solution."""
    file = ProblemFile(format="humaneval", path="", split="heldout", most=most)
    found = list(problems("humaneval", file))
    rows: list[tuple[str, Problem, str]] = [("gold", p, p.gold) for p in found]
    rows += [("nothing", p, p.program("    pass\n")) for p in found]
    for problem in found:
        made = list(mutations(problem.gold, {problem.entry}))
        rows += [("mistakes", problem, mistake.source) for mistake in made[:: max(1, len(made) // each)][:each]]
    with ThreadPoolExecutor(WORKERS) as pool:
        verdicts = list(pool.map(lambda row: judge(row[1], row[2]).passed, rows))
    counts = {
        kind: (sum(v for r, v in zip(rows, verdicts, strict=True) if r[0] == kind), sum(r[0] == kind for r in rows))
        for kind in ("gold", "nothing", "mistakes")
    }
    return Passed(**counts)


def run(scale: Scale) -> list[Entry]:
    """HumanEval, then the packages of recipes/k2.yaml; at smoke scale one small package of them."""
    full = scale.name == "full"
    passed = humaneval(164 if full else 2, 2)
    print(passed, flush=True)
    params = load_section(Params, ROOT / "recipes" / "k2.yaml", "programs")
    packages = params.packages if full else {"shortuuid": 1}
    job = Job(TOPIC, ROOT / "work" / f"benchmark-{TOPIC}" / code_digest(ROOT), None)
    funnels: dict[str, Funnel] = {name: Funnel() for name in packages}
    made: dict[str, list[Task]] = {}
    for name, count in packages.items():
        made[name] = tasks(
            repository(name), count, SEED, test_files=params.test_files, funnel=funnels[name], job=job
        )  # fmt: skip
        print(name, len(made[name]), "proved;", dict(funnels[name].why), flush=True)
    every = [task for some in made.values() for task in some]
    answered = answers(every[:: max(1, len(every) // SAMPLE)])
    remove(job.scratch)
    if full:
        rewrite(DOC, "tricks", "\n".join(table([*on_problems(), *on_repository(every[0])])))
        rewrite(DOC, "proofs", "\n".join([*_answers_table(passed, answered), "", *_funnel_table(made, funnels)]))
    return [
        measured(name, [value], unit=unit, topic=TOPIC, note=note)
        for name, value, unit, note in (
            ("HumanEval: right programs that pass", passed.gold[0], "programs", f"of {passed.gold[1]}"),
            ("HumanEval: mistakes that pass", passed.mistakes[0], "programs", f"of {passed.mistakes[1]}"),
            ("repository tasks proved", len(every), "tasks", f"from {sum(map(bool, made.values()))} packages"),
        )
    ]  # fmt: skip


def answers(sample: list[Task]) -> dict[str, tuple[int, int]]:
    """Kind of answer → how many pass, and of how many. The proofs ran all tasks; here answers go the models' way."""
    rows: list[tuple[str, Task, Files | None]] = []
    for task, other in zip(sample, sample[1:] + sample[:1], strict=True):
        files, mended = broken(task), patched(broken(task), gold_patch(task))
        hollowed = hollow(repository(task["package"]), task["path"], task["function"])
        rewritten = dict.fromkeys(task["tests"], b"def test_all():\n    pass\n")
        try:
            elsewhere = patched(files, gold_patch(other))
        except ValueError:  # as in the gym: a patch that does not fit earns nothing
            elsewhere = None
        rows += [
            ("the true mend", task, mended), ("nothing done", task, files),
            ("a function that returns nothing", task, {**files, **hollowed}),
            ("the mend of another task", task, elsewhere),
            ("tests that are rewritten", task, {**files, **rewritten}),
            ("the true mend, and a conftest.py", task, {**mended, "conftest.py": b""}),
        ]  # fmt: skip
    with ThreadPoolExecutor(WORKERS) as pool:
        passed = list(pool.map(lambda row: row[2] is not None and not verdict(row[1], row[2]), rows))
    return {
        kind: (sum(p for p, row in zip(passed, rows, strict=True) if row[0] == kind), len(sample))
        for kind in dict.fromkeys(row[0] for row in rows)
    }


def _answers_table(passed: Passed, answered: dict[str, tuple[int, int]]) -> list[str]:
    kinds = {
        "HumanEval, canonical solutions": passed.gold, "HumanEval, an empty function": passed.nothing,
        "HumanEval, solutions with one mistake": passed.mistakes,
        **{f"repository tasks, {kind}": counts for kind, counts in answered.items()},
    }  # fmt: skip
    return ["| answers | pass | of |", "|---|---|---|", *(f"| {kind} | {p} | {n} |" for kind, (p, n) in kinds.items())]


def _funnel_table(made: dict[str, list[Task]], funnels: dict[str, Funnel]) -> list[str]:
    lines = ["| package | licence | mistakes tried | proved | the others |", "|---|---|---|---|---|"]
    for name, funnel in funnels.items():
        package = repository(name)
        why = ", ".join(f"{count} {reason}" for reason, count in sorted(funnel.why.items()) if reason != PROVED)
        lines.append(f"| {name} {package.version} | {package.license} | {funnel.tried} | {len(made[name])} | {why} |")
    tried, proved = sum(funnel.tried for funnel in funnels.values()), sum(map(len, made.values()))
    return [*lines, f"| all | | {tried} | {proved} | |"]
