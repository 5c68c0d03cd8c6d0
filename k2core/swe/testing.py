"""The tests of a repository, run in a sandbox."""

from __future__ import annotations

import json
import marshal
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from k2core.sandbox.backends import create
from k2core.sandbox.base import MIB, Limits
from k2core.swe.repository import Repository

SECONDS, CPU = 60.0, 15
"""For all tests of a variant: on the clock, and of a processor."""
LIMITS = Limits(memory=1024 * MIB, processes=32, disk=64 * MIB, output=16 * MIB)
CANARY, DECOY = "test_that_holds", "test_that_does_not_hold"


@dataclass(frozen=True)
class Variant:
    """A run of tests.

    Attributes:
        tests: files of tests.
        files: what has another content in this run than in the others.
        only: which of the tests run, by name; None: all.
    """

    tests: Sequence[str]
    files: Mapping[str, bytes] = field(default_factory=dict)
    only: Sequence[str] | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        of: test → passed, failed or skipped.
        errors: failed test → what pytest says.
        covered: `(file, qualified name)` of each function that ran, if it was asked → the tests that it ran in;
            the name "" stands for the reading of files, before any test.
        fault: why there is no report, or none to be believed; empty if there is one.
    """

    of: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    covered: Mapping[tuple[str, str], Sequence[str]] = field(default_factory=dict)
    fault: str = ""

    @property
    def passed(self) -> set[str]:
        return {test for test, outcome in self.of.items() if outcome == "passed"}


def run_tests(repository: Repository, files: Mapping[str, bytes], tests: Sequence[str]) -> Outcome:
    """Run test files of a repository whose content is `files`.

    Raises:
        SandboxError: no code can be run safely here.
    """
    return run_variants(repository, files, [Variant(tests)])[0]


def run_variants(
    repository: Repository, files: Mapping[str, bytes], variants: Sequence[Variant], *, coverage: bool = False,
    seconds: int = CPU,
) -> list[Outcome]:  # fmt: skip
    """Run tests in several variants of `files`, one after the other in one sandbox.

    Two tests of our own are run with them, one that holds and one that does not, by names that cannot be guessed:
    a program that makes all tests pass gives itself away.

    Args:
        coverage: notes which functions each test runs, which makes it several times slower.
        seconds: of a processor, for one variant.

    Raises:
        SandboxError: no code can be run safely here.
    """
    word, mark = secrets.token_hex(16), secrets.token_hex(6)
    own = f"test_{mark}.py"
    content = f"def {CANARY}():\n    assert 1 + 1 == 2\n\n\ndef {DECOY}():\n    assert 1 + 1 == 3\n"
    request = {
        "word": word, "coverage": coverage, "own": own, "seconds": SECONDS,
        "variants": [
            {"files": dict(each.files), "tests": list(each.tests), "only": None if each.only is None else [*each.only]}
            for each in variants
        ],
    }  # fmt: skip
    limits = replace(LIMITS, cpu=seconds, wall=SECONDS * (len(variants) + 1))
    with create(limits, {**repository.compiled, **files, own: content.encode()}, repository.needs) as sandbox:
        result = sandbox.exec(["python", "-c", _driver()], marshal.dumps(request), keep=False)
    try:
        reports = json.loads(result.stdout)
    except ValueError:  # it has killed the driver, or all of the time is up
        reports = [""] * len(variants)
    return [_outcome(report, word, own) for report in reports]


def _outcome(text: str, word: str, own: str) -> Outcome:
    if not text.endswith(word):
        return Outcome(fault="the tests do not come to their end")
    report = json.loads(text.removesuffix(word))
    tests = [*report["of"], ""]
    of, errors = report["of"], report["errors"]
    if (of.pop(f"{own}::{CANARY}", ""), of.pop(f"{own}::{DECOY}", "")) != ("passed", "failed"):
        return Outcome(fault="the verdict of tests is changed")
    errors.pop(f"{own}::{DECOY}", "")
    covered = {(path, name): [tests[at] for at in run_in] for path, name, run_in in report["covered"]}
    return Outcome(of, errors, covered)


@cache
def _driver() -> str:
    return Path(__file__).with_name("driver.py").read_text()
