"""Runs in the sandbox: a package's own tests by pytest, once for each variant of its files, and what came of each test.

Each variant has a fork of this process, because loading pytest takes longer than most tests. A report ends with a word
that only these processes have been told, and comes after the last test: a program that ends the process before that,
in whatever way, has no report. Standard output is put away, so that what tests print is not taken for a report.
Python writes no compiled files here (`-B`): of a file that changes twice in a second it would take the stale one.
"""

from __future__ import annotations

import json
import marshal
import os
import random
import select
import signal
import sys

import pytest

MOST = 2**22
"""Bytes of a report."""


class Outcomes:
    """Outcome of each test: passed, failed or skipped; one that fails when it is set up or cleared away has failed."""

    def __init__(self, only: list[str] | None, own: str) -> None:
        self.only, self.own = None if only is None else {*only}, own
        self.of: dict[str, str] = {}
        self.errors: dict[str, str] = {}
        self.now = ""
        """The test that runs; empty while files are read."""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self.only is not None:
            items[:] = [item for item in items if item.nodeid in self.only or item.nodeid.startswith(self.own)]

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.now = nodeid

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.note(report, report.when == "call" or report.outcome != "passed")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.note(report, report.failed)

    def note(self, report: pytest.TestReport | pytest.CollectReport, counts: bool) -> None:
        if counts and self.of.get(report.nodeid) != "failed":
            self.of[report.nodeid] = report.outcome
            if report.failed:
                self.errors[report.nodeid] = str(report.longrepr)[-4000:]


def run(request: dict, variant: dict, answer: int) -> None:
    """Run the tests of a variant, and write the report."""
    random.seed(0)  # here, as a fork seeds anew; the same answer has the same verdict, also where tests draw
    random._urandom = os.urandom = random.Random(0).randbytes  # type: ignore[attr-defined]
    outcomes = Outcomes(variant["only"], request["own"])
    covered: dict[tuple[str, str], dict[str, int]] = {}

    def watch(frame: object, event: str, argument: object) -> None:
        if event == "call":
            code = frame.f_code  # type: ignore[attr-defined]
            if code.co_filename.startswith("/work/"):
                covered.setdefault((code.co_filename, code.co_qualname), {})[outcomes.now] = 1

    if request["coverage"]:
        sys.setprofile(watch)
    pytest.main(
        [*variant["tests"], request["own"], "-q", "-p", "no:cacheprovider", "--import-mode=append", "--rootdir=/work",
         "-o", "addopts=", "-W", "ignore", "--continue-on-collection-errors"],
        plugins=[outcomes],
    )  # fmt: skip
    sys.setprofile(None)
    number = {test: at for at, test in enumerate(outcomes.of)}
    functions = [
        (path[len("/work/") :], name, [number.get(test, -1) for test in tests])
        for (path, name), tests in covered.items()
    ]
    report = {"of": outcomes.of, "errors": outcomes.errors, "covered": functions}
    data = (json.dumps(report, ensure_ascii=False) + request["word"]).encode("utf-8", "replace")
    while data:
        data = data[os.write(answer, data) :]


def changed(files: dict) -> dict:
    """Write files; those before."""
    before = {}
    for path, content in files.items():
        with open(path, "rb") as file:
            before[path] = file.read()
        with open(path, "wb") as file:
            file.write(content)
    return before


def report_of(request: dict, variant: dict) -> str:
    """Run the tests in a fork; its report, or what it has written of it by the end of its time."""
    answer, own = os.pipe()
    child = os.fork()
    if not child:
        os.close(answer)
        run(request, variant, own)
        os._exit(0)
    os.close(own)
    data = b""
    while len(data) < MOST and select.select([answer], [], [], request["seconds"])[0]:
        part = os.read(answer, 65536)
        if not part:
            break
        data += part
    os.close(answer)
    try:
        os.kill(child, signal.SIGKILL)
    finally:
        os.waitpid(child, 0)
    return data.decode("utf-8", "replace")


def main() -> None:
    """Answer the request of standard input."""
    request = marshal.loads(sys.stdin.buffer.read())
    report = os.dup(1)
    os.dup2(os.open("/dev/null", os.O_RDWR), 1)
    os.dup2(1, 0)
    pytest.main(["--version", "--version", "-p", "no:cacheprovider"])  # loads its plugins, once for all forks
    reports = []
    for variant in request["variants"]:
        before = changed(variant["files"])
        reports.append(report_of(request, variant))
        changed(before)
    with open(report, "wb") as file:
        file.write(json.dumps(reports).encode())
    os._exit(0)


main()
