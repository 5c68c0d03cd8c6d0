"""Tasks of a package, each proved: tests fail with the mistake, pass with the true mend, fail with a wrong one.

All tests run once, and it is noted which functions each of them runs. A mistake is tried with the tests that run its
function; if one of them fails, all tests of their files are run with the mistake and with the mend, as they are for an
answer; and those that fail must fail again. A funnel counts what was tried and why the others were not kept. What is
known already is kept in the job's scratch, so that a proof that was interrupted goes on.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from k2core.coding.mutation import Mutation, functions, mutations
from k2core.stage import Job
from k2core.storage import write_json
from k2core.swe.repository import Repository
from k2core.swe.task import Task, broken, gold_patch, make, patched
from k2core.swe.testing import CPU, Outcome, Variant, run_variants

T = TypeVar("T")
PROVED = "proved"
GROUP = 4
"""Runs in one sandbox, one after the other."""
TEST_FILES = 3
"""Files of tests that decide about a mistake, the smallest of those that reach its function."""
REPEATS = 2
"""How often the tests that fail must fail again."""
SHARE = 0.5
"""A mistake that fails more of the tests than this breaks the package as a whole: no user would ask what is wrong."""


@dataclass
class Funnel:
    """How many mistakes were tried, and what became of them."""

    tried: int = 0
    why: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Candidate:
    """A mistake, the files of tests that decide about it, and those of their tests that run its function."""

    path: str
    mistake: Mutation
    tests: Sequence[str]
    only: Sequence[str]

    @property
    def changed(self) -> dict[str, bytes]:
        """The file with the mistake."""
        return {self.path: self.mistake.source.encode()}

    def passing(self, outcomes: dict[str, Outcome]) -> set[str]:
        """The tests that decide: those of its files that pass in the package as it is."""
        return {test for file in self.tests for test in outcomes[file].passed}


def tasks(repository: Repository, count: int, seed: int, *, test_files: int, funnel: Funnel, job: Job) -> list[Task]:
    """At most `count` proved tasks, no two of one function; a pure function of the package's files and the seed.

    Args:
        test_files: files of tests that are used, from the first on.
        funnel: is filled.
    """
    scratch = job.scratch / f"{repository.name}-{repository.digest[:16]}-{seed}-{count}-{test_files}"
    scratch.mkdir(parents=True, exist_ok=True)
    outcomes = _baseline(repository, test_files, scratch, job)
    candidates = _candidates(repository, outcomes, Random(f"{seed}/swe/{repository.name}"))
    kept: list[Task] = []
    done = 0

    def prove(number: int, some: Sequence[Candidate]) -> list[tuple[str, Task | None]]:
        found = _once(scratch / f"mistakes-{number}.json", lambda: _proved(repository, outcomes, some))
        bar.update(sum(task is not None for _, task in found))
        return found

    with ThreadPoolExecutor(os.cpu_count()) as pool, job.progress(count, "task", what=repository.name) as bar:
        while drawn := [*islice(candidates, count - len(kept))]:
            groups = _groups(drawn)
            for found in pool.map(prove, range(done, done + len(groups)), groups):
                funnel.tried += len(found)
                funnel.why.update(reason for reason, _ in found)
                kept += [task for _, task in found if task]
            done += len(groups)
    return kept


def _baseline(repository: Repository, most: int, scratch: Path, job: Job) -> dict[str, Outcome]:
    """Test file → its outcome in the package as it is, for at most `most` files that say something."""
    sources, paths = {*repository.sources}, repository.test_files[:most]

    def run(number: int, some: Sequence[str]) -> list[dict[str, Any]]:
        def make() -> list[dict[str, Any]]:
            alone = [Variant([path]) for path in some]
            outcomes = run_variants(
                repository, repository.files, alone, coverage=True, seconds=CPU // TEST_FILES
            )  # as many files as decide about a mistake fit into the time of an answer
            return [
                {"of": each.of, "fault": each.fault,
                 "covered": [[*key, tests] for key, tests in each.covered.items() if key[0] in sources]}
                for each in outcomes
            ]  # fmt: skip

        rows = _once(scratch / f"tests-{number}.json", make)
        bar.update(len(some))
        return rows

    groups = _groups(paths)
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        job.progress(len(paths), "file", what=f"tests of {repository.name}") as bar,
    ):
        rows = [row for found in pool.map(run, range(len(groups)), groups) for row in found]
    return {
        path: Outcome(row["of"], covered={(file, name): tests for file, name, tests in row["covered"]})
        for path, row in zip(paths, rows, strict=True)
        if not row["fault"] and "passed" in row["of"].values()
    }


def _groups(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[at : at + GROUP] for at in range(0, len(items), GROUP)]


def _once(file: Path, make: Callable[[], Any]) -> Any:
    """What `make` gives, as JSON; from `file`, if an attempt before this one has left it there."""
    if not file.exists():
        write_json(file, make())
    return json.loads(file.read_text())


def _candidates(repository: Repository, outcomes: dict[str, Outcome], random: Random) -> Iterator[Candidate]:
    """In random order, one for each function that a test reaches."""
    reached: dict[tuple[str, str], list[str]] = {}
    for test, outcome in sorted(outcomes.items(), key=lambda each: len(each[1].of)):
        for function in outcome.covered:
            reached.setdefault(function, []).append(test)
    found = []
    for path in repository.sources:
        source = repository.files[path].decode("utf-8", "replace")
        for name, _ in functions(source):
            if tests := reached.get((path, name), [])[:TEST_FILES]:
                found.append((path, name, source, tests))
    random.shuffle(found)
    for path, name, source, tests in found:
        if mistakes := list(mutations(source, {name})):
            only = [each for test in tests for each in _running(outcomes[test], path, name)]
            yield Candidate(path, random.choice(mistakes), tests, only)


def _running(outcome: Outcome, path: str, name: str) -> Sequence[str]:
    """The tests of a file that run a function: all, if the reading of the file does."""
    tests = outcome.covered[path, name]
    return [*outcome.of] if "" in tests else tests


def _proved(
    repository: Repository, outcomes: dict[str, Outcome], candidates: Sequence[Candidate]
) -> list[tuple[str, Task | None]]:
    """`(reason, task)` of each mistake: `proved` with a task, or why there is none."""

    def run(variants: list[Variant]) -> Iterator[Outcome]:
        return iter(run_variants(repository, repository.files, variants) if variants else [])

    first = run([Variant(each.tests, each.changed, each.only) for each in candidates])
    reasons = [_unfit(each.passing(outcomes) & {*each.only}, next(first)) for each in candidates]
    again = run([
        variant
        for each, reason in zip(candidates, reasons, strict=True) if not reason
        for variant in (
            Variant(each.tests, each.changed), Variant(each.tests),
            Variant(each.tests, hollow(repository, each.path, each.mistake.function), each.only),
        )
    ])  # fmt: skip
    found = [
        (reason, None) if reason else _judged(repository, each, each.passing(outcomes), *islice(again, 3))
        for each, reason in zip(candidates, reasons, strict=True)
    ]
    for _ in range(REPEATS):  # each in a sandbox of its own: forks of one process have the same addresses, and so order
        shown = [
            Variant(each.tests, each.changed, task["failing"])
            for each, (_, task) in zip(candidates, found, strict=True) if task
        ]  # fmt: skip
        once_more = run(shown)
        found = [
            ("the failure comes and goes", None) if task and next(once_more).passed else (reason, task)
            for reason, task in found
        ]
    return found


def _unfit(passing: set[str], after: Outcome) -> str:
    """Why a mistake makes no task, by the tests that pass without it and what comes of them with it."""
    if after.fault:
        return after.fault
    return "" if passing - after.passed else "no test notices"


def _judged(
    repository: Repository, candidate: Candidate, passing: set[str], mistaken: Outcome, mended: Outcome, hollow: Outcome
) -> tuple[str, Task | None]:
    """As `_proved`, of one mistake.

    Args:
        mistaken: of all tests with the mistake.
        mended: of all tests with the true mend, which gives the package as it is.
        hollow: of the function's tests, if it returns nothing.
    """
    if reason := _unfit(passing, mistaken):
        return reason, None
    if len(passing - mistaken.passed) > max(1, SHARE * len(passing)):
        return "the whole package breaks", None
    if not passing <= mended.passed:
        return "the true mend does not pass", None
    if passing & {*candidate.only} <= hollow.passed:
        return "a wrong mend passes", None
    task = make(repository, candidate.path, candidate.mistake, candidate.tests, passing, mistaken)
    files = broken(task)
    if (
        files[candidate.path] != candidate.mistake.source.encode()
        or patched(files, gold_patch(task)) != repository.files
    ):
        return "the mistake is not in one line", None
    return PROVED, task


def hollow(repository: Repository, path: str, function: str) -> dict[str, bytes]:
    """A file with a function that returns nothing: a mend that is known to be wrong."""
    source = repository.files[path].decode()
    node = next(node for name, node in functions(source) if name == function)
    lines = source.splitlines(keepends=True)
    first, last = node.body[0].lineno, node.body[-1].end_lineno
    assert last is not None
    indent = " " * node.body[0].col_offset
    return {path: "".join([*lines[: first - 1], f"{indent}return None\n", *lines[last:]]).encode()}
