"""The tests of a repository, run in a sandbox."""

from __future__ import annotations

import json
import marshal
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from k2core.sandbox.base import MIB, Limits
from k2core.sandbox.bubblewrap import create
from k2core.swe.repository import Repository

LIMITS = Limits(wall=60.0, cpu=15, memory=1024 * MIB, processes=32, disk=64 * MIB, output=4 * MIB)
CANARY, DECOY = "test_that_holds", "test_that_does_not_hold"


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        of: test → passed, failed or skipped.
        errors: failed test → what pytest says.
        covered: `(file, qualified name)` of the functions that ran, if it was asked.
        fault: why there is no report, or none to be believed; empty if there is one.
    """

    of: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    covered: frozenset[tuple[str, str]] = frozenset()
    fault: str = ""

    @property
    def passed(self) -> set[str]:
        return {test for test, outcome in self.of.items() if outcome == "passed"}


def run_tests(
    repository: Repository, files: Mapping[str, bytes], tests: Sequence[str], *, coverage: bool = False,
    limits: Limits = LIMITS,
) -> Outcome:  # fmt: skip
    """Run test files of a repository whose content is `files`.

    Two tests of our own are run with them, one that holds and one that does not, by names that cannot be guessed:
    a program that makes all tests pass gives itself away.

    Raises:
        SandboxError: no code can be run safely here.
    """
    word, mark = secrets.token_hex(16), secrets.token_hex(6)
    own = f"test_{mark}.py"
    content = f"def {CANARY}():\n    assert 1 + 1 == 2\n\n\ndef {DECOY}():\n    assert 1 + 1 == 3\n"
    request = {"word": word, "coverage": coverage, "tests": [*tests, own]}
    with create(limits, {**files, own: content.encode()}, repository.needs) as sandbox:
        result = sandbox.exec(["python", "-c", _driver()], marshal.dumps(request), keep=False)
    text = result.text
    if result.timed_out or result.status < 0:
        return Outcome(fault="it does not end")
    if not text.endswith(word):
        return Outcome(fault=f"it ends before the tests do, with {result.status}")
    report = json.loads(text.removesuffix(word))
    of, errors = report["of"], report["errors"]
    if (of.pop(f"{own}::{CANARY}", ""), of.pop(f"{own}::{DECOY}", "")) != ("passed", "failed"):
        return Outcome(fault="it changes the verdict of tests")
    errors.pop(f"{own}::{DECOY}", "")
    return Outcome(of, errors, frozenset(map(tuple, report["covered"])))


@cache
def _driver() -> str:
    return Path(__file__).with_name("driver.py").read_text()
