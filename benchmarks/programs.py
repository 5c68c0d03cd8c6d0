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
from k2core.coding.formats import ProblemFile, problems
from k2core.coding.judge import judge
from k2core.coding.mutation import mutations
from k2core.coding.problem import Problem
from k2core.recipe import load_section
from k2core.swe.prove import Funnel, tasks
from k2core.swe.repository import repository
from k2core.swe.task import broken, gold_patch, patched, verdict
from stages.programs import Params

TOPIC = "programs"
DOC = ROOT / "docs" / "programs.md"
SEED = 7
SAMPLE = 20


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
    funnels, made, lines = {}, [], []
    for name, count in packages.items():
        funnels[name] = Funnel()
        found = tasks(repository(name), count, SEED, test_files=params.test_files, funnel=funnels[name])
        made += found
        why = ", ".join(f"{n} {reason}" for reason, n in sorted(funnels[name].why.items()) if reason != "proved")
        package = repository(name)
        print(name, len(found), "proved;", why, flush=True)
        lines.append(f"| {name} {package.version} | {package.license} | {funnels[name].tried} | {len(found)} | {why} |")
    sample = made[:: max(1, len(made) // SAMPLE)]  # the proof ran all of them; here they go the way of an answer
    with ThreadPoolExecutor(WORKERS) as pool:
        gold = sum(not v for v in pool.map(lambda t: verdict(t, patched(broken(t), gold_patch(t))), sample))
        nothing = sum(not v for v in pool.map(lambda t: verdict(t, broken(t)), sample))
    if full:
        table = [
            "| answers | pass | of |", "|---|---|---|",
            f"| HumanEval, canonical solutions | {passed.gold[0]} | {passed.gold[1]} |",
            f"| HumanEval, an empty function | {passed.nothing[0]} | {passed.nothing[1]} |",
            f"| HumanEval, solutions with one mistake | {passed.mistakes[0]} | {passed.mistakes[1]} |",
            f"| repository tasks, the true mend | {gold} | {len(sample)} |",
            f"| repository tasks, nothing done | {nothing} | {len(sample)} |",
            "", "| package | licence | mistakes tried | proved | the others |", "|---|---|---|---|---|", *lines,
        ]  # fmt: skip
        rewrite(DOC, "proofs", "\n".join(table))
    return [
        measured(name, [value], unit=unit, topic=TOPIC, note=note)
        for name, value, unit, note in (
            ("HumanEval: right programs that pass", passed.gold[0], "programs", f"of {passed.gold[1]}"),
            ("HumanEval: mistakes that pass", passed.mistakes[0], "programs", f"of {passed.mistakes[1]}"),
            ("repository tasks proved", len(made), "tasks", f"from {len(packages)} packages"),
        )
    ]  # fmt: skip
