"""Runs in the sandbox: a package's own tests by pytest, and what came of each.

The report ends with a word that only this process has been told, and comes after the last test: a program that ends
the process before that, in whatever way, has no report. Standard output is put away, so that what tests print is not
taken for a report.
"""

import json
import marshal
import os
import sys

request = marshal.loads(sys.stdin.buffer.read())
report, covered = os.dup(1), {}
os.dup2(os.open("/dev/null", os.O_WRONLY), 1)
os.dup2(os.open("/dev/null", os.O_RDONLY), 0)

import pytest  # noqa: E402  (after standard input and output are put away)


class Outcomes:
    """Outcome of each test: passed, failed or skipped; one that fails when it is set up or cleared away has failed."""

    def __init__(self):
        self.of, self.errors = {}, {}

    def pytest_runtest_logreport(self, report):
        self.note(report, report.when == "call" or report.outcome != "passed")

    def pytest_collectreport(self, report):
        self.note(report, report.failed)

    def note(self, report, counts):
        if counts and self.of.get(report.nodeid) != "failed":
            self.of[report.nodeid] = report.outcome
            if report.failed:
                self.errors[report.nodeid] = str(report.longrepr)[-4000:]


def watch(frame, event, argument):
    code = frame.f_code
    if event == "call" and code.co_filename.startswith("/work/"):
        covered[code.co_filename[len("/work/") :], code.co_qualname] = 1


outcomes = Outcomes()
if request["coverage"]:
    sys.setprofile(watch)
pytest.main(
    [*request["tests"], "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "--import-mode=append", "--rootdir=/work",
     "-o", "addopts=", "-W", "ignore", "--continue-on-collection-errors"],
    plugins=[outcomes],
)  # fmt: skip
sys.setprofile(None)
content = json.dumps({"of": outcomes.of, "errors": outcomes.errors, "covered": list(covered)}) + request["word"]
data = content.encode("utf-8", "replace")
while data:
    data = data[os.write(report, data) :]
os._exit(0)
