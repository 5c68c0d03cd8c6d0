"""A newcomer's half hour, typed and clicked: `python tests/newcomer.py FOLDER`.

Clones the project into FOLDER and does what the README says: the demo, own data, a run from the Prefect page's form, a
schedule, two runs compared in MLflow, and who trained on a document. Needs Chromium, half an hour and an otherwise idle
machine. Writes `docs/newcomer.md` with the times, and the pictures of `docs/` that show the pages. The same command
goes on after an interruption: steps that are done stand in `FOLDER.json`.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "flows")]

from browser import PrefectPage, browser_page  # noqa: E402
from pages import Pages, wait_until  # noqa: E402
from workspace import Workspace  # noqa: E402

from benchmarks.harness import machine  # noqa: E402
from k2core.tracking.experiment import TRAINING  # noqa: E402

SHOTS = ROOT / "docs"
OWN = "own.jsonl"
ENTRY = (
    "[{name: own, kind: jsonl, path: own.jsonl, columns: {text: text, id: id}, domain: web, "
    "license: CC0-1.0, attribution: the newcomer, limit: null}]"
)
PAGE = """# A newcomer's half hour

Typed and clicked by `python tests/newcomer.py FOLDER`, which writes this page and the pictures in
[running](running.md).
These are the times of one walk, on {day} ({machine}; commit {commit}).
The project has changed since: how long the chain takes now is in [measurements](measurements.md).

{table}
"""
Step = Callable[["Newcomer"], str]


class Newcomer:
    """A person with a terminal and a browser, in a clone of the project."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.record = folder.with_suffix(".json")
        self.rows: list[list[str]] = json.loads(self.record.read_text()) if self.record.exists() else []

    def do(self, what: str, how: str, step: Step) -> None:
        """Take a step, unless it is done, and note how long it took and what was seen."""
        if any(row[0] == what for row in self.rows):
            return
        print(f"{what}: {how}", flush=True)
        started = time.monotonic()
        seen = step(self)
        self.rows.append([what, how, f"{time.monotonic() - started:.0f}", seen])
        self.record.write_text(json.dumps(self.rows))
        print(f"  {self.rows[-1][2]} s. {seen}", flush=True)

    def type(self, command: str) -> str:
        """Type a command in the clone; its output, which also goes to `FOLDER.log`."""
        path = f"{self.folder / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            command, shell=True, cwd=self.folder, env={**os.environ, "PATH": path}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        with self.folder.with_suffix(".log").open("a") as log:
            log.write(f"$ {command}\n{done.stdout}{done.stderr}\n")
        if done.returncode:
            raise SystemExit(f"{command} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done.stdout

    @cached_property
    def pages(self) -> Pages:
        """`make ui`, started at the first use."""
        workspace = Workspace(self.folder)
        workspace.env["PATH"] = f"{self.folder / '.venv/bin'}{os.pathsep}{workspace.env['PATH']}"
        return Pages(workspace)

    def close(self) -> None:
        """Ctrl-C in the terminal of `make ui`."""
        if "pages" in self.__dict__:
            self.pages.stop()

    def table(self) -> str:
        """The steps as Markdown."""
        lines = ["| step | typed or clicked | seconds | seen |", "|---|---|---|---|"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        return "\n".join([*lines, f"| **in all** | | **{sum(int(row[2]) for row in self.rows)}** | |"])


def clone(me: Newcomer) -> str:
    subprocess.run(["git", "clone", "-q", ROOT, me.folder], check=True)
    return ""


def install(me: Newcomer) -> str:
    me.type("make setup")
    return ""


def demo(me: Newcomer) -> str:
    return re.findall(r"the chain took .*", me.type("make demo"))[-1]


def demo_again(me: Newcomer) -> str:
    return me.type("make demo").strip().splitlines()[-1]


def own_data(me: Newcomer) -> str:
    """The prose of the project's documentation, as JSON lines."""
    found = [
        " ".join(part.split())
        for path in sorted((ROOT / "docs").glob("*.md"))
        for part in path.read_text().split("\n\n")
        if part[0] not in "|#-`!<0123456789" and len(part.split()) > 45
    ]
    rows = [{"id": str(number), "text": text} for number, text in enumerate(dict.fromkeys(found))]
    (me.folder / OWN).write_text("\n".join(map(json.dumps, rows)) + "\n")
    return f"{len(rows)} documents"


def start_pages(me: Newcomer) -> str:
    return me.pages.said().splitlines()[1]


def run_on_own_data(me: Newcomer) -> str:
    with browser_page() as page:
        prefect = PrefectPage(page, me.pages.links[0], SHOTS)
        prefect.start("data", f"ingest.files={ENTRY}")
        (SHOTS / "form.png").rename(SHOTS / "prefect-form.png")
        prefect.await_state("Completed", seconds=900)
        page.wait_for_timeout(3000)
        prefect.shot("prefect-run")
    (found,) = re.findall(r"own: ([\d,]+ documents)", (me.folder / "logs" / "ingest.log").read_text())
    return f"from ingest to the plan of the mixture all turn green; {found}"


def run_with_a_change(me: Newcomer) -> str:
    with browser_page() as page:
        prefect = PrefectPage(page, me.pages.links[0], SHOTS)
        prefect.start("chain", "ingest.files=[]", "report.samples=4")
        (SHOTS / "form.png").unlink()
        prefect.await_state("Completed", seconds=900)
    return "DVC brings back what it had made before; the report is made anew"


def schedule(me: Newcomer) -> str:
    def fired() -> bool:
        runs = me.pages.api("flow_runs", sort="START_TIME_DESC")
        return any("auto-scheduled" in run["tags"] and run["state_type"] == "COMPLETED" for run in runs)

    with browser_page() as page:
        prefect = PrefectPage(page, me.pages.links[0], SHOTS)
        prefect.schedule_every_minute("chain")
        wait_until(fired, 200, "no scheduled run")
        prefect.open_deployment("chain")
        page.wait_for_timeout(2000)
        prefect.shot("prefect-schedule")
    return "a run that nobody started, with nothing to do"


def compare(me: Newcomer) -> str:
    """The address that `make ui` prints, then what its Compare button opens for the first run and the last."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{me.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("k2").experiment_id
    runs = client.search_runs([experiment], "tags.`k2.kind` = 'pipeline'", order_by=["attributes.start_time ASC"])
    told = [run.info.run_id for run in runs if run.data.metrics]
    chosen = ",".join(f"%22{run}%22" for run in (told[0], told[-1]))
    with browser_page() as page:
        page.goto(re.findall(r"^MLflow +(\S+)", me.pages.said(), re.MULTILINE)[0])
        page.wait_for_timeout(8000)
        page.screenshot(path=SHOTS / "mlflow-runs.png")
        page.goto(f"{me.pages.mlflow}/#/compare-runs?runs=[{chosen}]&experiments=[%22{experiment}%22]&{TRAINING}")
        page.wait_for_timeout(8000)
        page.screenshot(path=SHOTS / "mlflow-compare.png")
    return "what differs, and which way is better"


def documents(me: Newcomer) -> str:
    return f"{len(trained_on(me)):,} documents"


def document(me: Newcomer) -> str:
    said = me.type(f"python -m k2core.lineage models/rl --document {trained_on(me)[0]}")
    return "; ".join([" ".join(line.split()) for line in said.splitlines() if " seen " in line][:2])


def trained_on(me: Newcomer) -> list[str]:
    """Ids of the documents that the model was trained on."""
    return [row.split("\t")[0] for row in me.type("python -m k2core.lineage models/rl --documents").splitlines()[1:]]


STEPS: tuple[tuple[str, str, Step], ...] = (
    ("clone", "`git clone`", clone),
    ("install", "`make setup`", install),
    ("the chain", "`make demo`", demo),
    ("nothing to do", "`make demo` again", demo_again),
    ("own data", f"a file `{OWN}` in the folder", own_data),
    ("the pages", "`make ui`", start_pages),
    ("a run from the form", "Deployments, data, Run, Custom run: own data", run_on_own_data),
    ("another", "without own data, `report.samples=4`", run_with_a_change),
    ("compare two runs", "the MLflow address; tick two runs, Compare", compare),
    ("what was trained on", "`python -m k2core.lineage models/rl --documents`", documents),
    ("who trained on this", "`python -m k2core.lineage models/rl --document …`", document),
    ("a schedule", "Deployments, chain, + Schedule, Cron, every minute", schedule),
)


def main(folder: Path) -> None:
    """Take all steps, then write the page."""
    me = Newcomer(folder)
    try:
        for what, how, step in STEPS:
            me.do(what, how, step)
    finally:
        me.close()
    words = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
    (SHOTS / "newcomer.md").write_text(PAGE.format(
        day=time.strftime("%Y-%m-%d"), machine=machine(), commit=commit, table=me.table()
    ))  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
