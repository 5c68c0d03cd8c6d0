"""Runs in the sandbox: a package's own tests by pytest, once for each variant of its files, and what came of each test.

Each variant has a fork of this process, because loading pytest takes longer than most tests. A report ends with a word
that only these processes have been told, and comes after the last test: a program that ends the process before that,
in whatever way, has no report. Standard output is put away, so that what tests print is not taken for a report.
"""

from __future__ import annotations

import json
import marshal
import os
import select
import signal
import sys

import pytest

MOST = 2**22
"""Bytes of a report."""


class Outcomes:
    """Outcome of each test: passed, failed or skipped; one that fails when it is set up or cleared away has failed."""

    def __init__(self) -> None:
        self.of: dict[str, str] = {}
        self.errors: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.note(report, report.when == "call" or report.outcome != "passed")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.note(report, report.failed)

    def note(self, report: pytest.TestReport | pytest.CollectReport, counts: bool) -> None:
        if counts and self.of.get(report.nodeid) != "failed":
            self.of[report.nodeid] = report.outcome
            if report.failed:
                self.errors[report.nodeid] = str(report.longrepr)[-4000:]


def run(request: dict, answer: int) -> None:
    """Run the tests, and write the report."""
    outcomes, covered = Outcomes(), dict[tuple[str, str], int]()

    def watch(frame: object, event: str, argument: object) -> None:
        code = frame.f_code  # type: ignore[attr-defined]
        if event == "call" and code.co_filename.startswith("/work/"):
            covered[code.co_filename[len("/work/") :], code.co_qualname] = 1

    if request["coverage"]:
        sys.setprofile(watch)
    pytest.main(
        [*request["tests"], "-q", "-p", "no:cacheprovider", "--import-mode=append", "--rootdir=/work", "-o", "addopts=",
         "-W", "ignore", "--continue-on-collection-errors"],
        plugins=[outcomes],
    )  # fmt: skip
    sys.setprofile(None)
    content = json.dumps({"of": outcomes.of, "errors": outcomes.errors, "covered": list(covered)}) + request["word"]
    data = content.encode("utf-8", "replace")
    while data:
        data = data[os.write(answer, data) :]


def changed(files: dict, stamp: int) -> dict:
    """Write files with a time of their own, by which Python knows that it has not compiled them yet; those before."""
    before = {}
    for path, content in files.items():
        with open(path, "rb") as file:
            before[path] = file.read()
        with open(path, "wb") as file:
            file.write(content)
        os.utime(path, (stamp, stamp))
    return before


def report_of(request: dict) -> str:
    """Run the tests in a fork; its report, or what it has written of it by the end of its time."""
    answer, own = os.pipe()
    child = os.fork()
    if not child:
        os.close(answer)
        run(request, own)
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
    sys.dont_write_bytecode = False
    reports, stamp = [], 10**9
    for variant in request["variants"]:
        stamp += 2
        before = changed(variant, stamp)
        reports.append(report_of(request))
        changed(before, stamp + 1)
    with open(report, "wb") as file:
        file.write(json.dumps(reports).encode())
    os._exit(0)


main()
