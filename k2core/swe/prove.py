"""Tasks of a package, each proved: tests pass, fail with the mistake, pass with the mend, fail with a wrong mend.

A funnel counts what was tried and why the others were not kept.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from random import Random

from k2core.coding.mutation import Mutation, functions, mutations
from k2core.swe.repository import Repository
from k2core.swe.task import Task, broken, gold_patch, make, patched
from k2core.swe.testing import Outcome, run_tests, run_variants

PROVED = "proved"
GROUP = 8
"""Mistakes that are tried in one sandbox, one after the other."""
TEST_FILES = 3
"""Files of tests that decide about a mistake, the smallest of those that reach its function."""
SHARE = 0.5
"""A mistake that fails more of the tests than this breaks the package as a whole: no user would ask what is wrong."""


@dataclass
class Funnel:
    """How many mistakes were tried, and what became of them."""

    tried: int = 0
    why: Counter[str] = field(default_factory=Counter)


def baseline(repository: Repository, most: int) -> dict[str, Outcome]:
    """Test file → its outcome in the package as it is, for at most `most` files that say something."""

    def run(path: str) -> Outcome:
        return run_tests(repository, repository.files, [path], coverage=True)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = pool.map(run, repository.test_files[:most])
    found = zip(repository.test_files[:most], outcomes, strict=True)
    return {path: outcome for path, outcome in found if outcome.passed and not outcome.fault}


def tasks(
    repository: Repository, count: int, seed: int, *, test_files: int, funnel: Funnel,
    progress: Callable[[int], object] = lambda number: None,
) -> list[Task]:  # fmt: skip
    """At most `count` proved tasks, no two of one function; a pure function of the package's files and the seed."""
    outcomes = baseline(repository, test_files)
    kept: list[Task] = []
    candidates = _candidates(repository, outcomes, Random(f"{seed}/swe/{repository.name}"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while len(kept) < count:
            groups: dict[tuple[str, ...], list[tuple[str, Mutation]]] = {}
            for path, mistake, tests in islice(candidates, count - len(kept)):
                groups.setdefault(tests, []).append((path, mistake))
            if not groups:
                break
            several = [
                (tests, some[at : at + GROUP]) for tests, some in groups.items() for at in range(0, len(some), GROUP)
            ]
            for found in pool.map(lambda group: _proved(repository, outcomes, *group), several):
                for reason, task in found:
                    funnel.tried += 1
                    funnel.why[reason] += 1
                    if task:
                        kept.append(task)
                progress(sum(task is not None for _, task in found))
    return kept


def _candidates(
    repository: Repository, outcomes: dict[str, Outcome], random: Random
) -> Iterator[tuple[str, Mutation, tuple[str, ...]]]:
    """`(file, mistake, test files)` in random order, one for each function that a test reaches."""
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
            yield path, random.choice(mistakes), tuple(tests)


def _proved(
    repository: Repository, outcomes: dict[str, Outcome], tests: tuple[str, ...], mistakes: list[tuple[str, Mutation]]
) -> list[tuple[str, Task | None]]:
    """`(reason, task)` of each mistake: `proved` with a task, or why there is none."""
    before = Outcome({test: outcome for each in tests for test, outcome in outcomes[each].of.items()})
    afters = run_variants(repository, repository.files, [{path: m.source.encode()} for path, m in mistakes], tests)
    found: list[tuple[str, Task | None]] = []
    for (path, mistake), after in zip(mistakes, afters, strict=True):
        lost = before.passed - after.passed
        reason = (
            after.fault or ("" if lost else "no test notices")
            or ("the whole package breaks" if len(lost) > max(1, SHARE * len(before.passed)) else "")
        )  # fmt: skip
        task = None if reason else make(repository, path, mistake, tests, before, after)
        if task and broken(task)[path] != mistake.source.encode():
            reason, task = "the mistake is not in one line", None
        found.append((reason, task))
    variants = [each for _, task in found if task for each in (_mended(task), _hollow(repository, task))]
    again = iter(run_variants(repository, repository.files, variants, tests) if variants else [])
    for number, (_, task) in enumerate(found):
        if task:
            mended, hollow = ({*task["passing"]} <= next(again).passed for _ in range(2))
            fault = "" if mended else "the true mend does not pass"
            fault = fault or ("a wrong mend passes" if hollow else "")
            found[number] = (fault or PROVED, None if fault else task)
    return found


def _mended(task: Task) -> dict[str, bytes]:
    """The changed file after the gold patch."""
    return {task["path"]: patched(broken(task), gold_patch(task))[task["path"]]}


def _hollow(repository: Repository, task: Task) -> dict[str, bytes]:
    """The changed file with a function that returns nothing: a mend that is known to be wrong."""
    source = repository.files[task["path"]].decode()
    function = next(node for each, node in functions(source) if each == task["function"])
    lines = source.splitlines(keepends=True)
    first, last = function.body[0].lineno, function.body[-1].end_lineno
    assert last is not None
    indent = " " * function.body[0].col_offset
    changed = "".join([*lines[: first - 1], f"{indent}return None\n", *lines[last:]])
    return {task["path"]: changed.encode()}
