"""Tasks of a package, each proved: tests pass, fail with the mistake, pass with the mend, fail with a wrong mend.

A funnel counts what was tried and why the others were not kept.
"""

from __future__ import annotations

import ast
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random

from k2core.coding.mutation import Mutation, functions, mutations
from k2core.swe.repository import Repository
from k2core.swe.task import Task, broken, gold_patch, make, patched, verdict
from k2core.swe.testing import Outcome, run_tests

PROVED = "proved"
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
    progress: Callable[[], object] = lambda: None,
) -> list[Task]:  # fmt: skip
    """At most `count` proved tasks, no two of one function; a pure function of the package's files and the seed."""
    outcomes = baseline(repository, test_files)
    kept: list[Task] = []
    candidates = _candidates(repository, outcomes, Random(f"{seed}/swe/{repository.name}"))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while len(kept) < count:
            some = [each for each, _ in zip(candidates, range(max(1, count - len(kept))), strict=False)]
            if not some:
                break
            for reason, task in pool.map(lambda each: _proved(repository, *each, outcomes), some):
                funnel.tried += 1
                funnel.why[reason] += 1
                if task:
                    kept.append(task)
                progress()
    return kept


def _candidates(
    repository: Repository, outcomes: dict[str, Outcome], random: Random
) -> Iterator[tuple[str, Mutation, list[str]]]:
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
            yield path, random.choice(mistakes), tests


def _proved(
    repository: Repository, path: str, mistake: Mutation, tests: list[str], outcomes: dict[str, Outcome]
) -> tuple[str, Task | None]:
    """`(reason, task)`: `proved` with a task, or why there is none."""
    before = Outcome({test: outcome for each in tests for test, outcome in outcomes[each].of.items()})
    after = run_tests(repository, {**repository.files, path: mistake.source.encode()}, tests)
    if after.fault:
        return after.fault.partition(",")[0], None
    lost = before.passed - after.passed
    if not lost:
        return "no test notices", None
    if len(lost) > max(1, SHARE * len(before.passed)):
        return "the whole package breaks", None
    task = make(repository, path, mistake, tests, before, after)
    files = broken(task)
    if files[path] != mistake.source.encode():
        return "the mistake is not in one line", None
    if verdict(task, patched(files, gold_patch(task))):
        return "the true mend does not pass", None
    if not verdict(task, {**files, path: _hollow(repository.files[path].decode(), mistake.function).encode()}):
        return "a wrong mend passes", None
    return PROVED, task


def _hollow(source: str, name: str) -> str:
    """`source` with a function that returns nothing: a mend that is known to be wrong."""
    function = next(node for each, node in functions(source) if each == name)
    lines = source.splitlines(keepends=True)
    first, last = function.body[0].lineno, function.body[-1].end_lineno
    assert last is not None
    changed = "".join([*lines[: first - 1], " " * function.body[0].col_offset + "return None\n", *lines[last:]])
    return changed if _parses(changed) else source.replace("return ", "return None and ")


def _parses(source: str) -> bool:
    try:
        ast.parse(source)
    except SyntaxError:
        return False
    return True
