"""A newcomer's half hour, typed and clicked: `python tests/newcomer.py FOLDER`.

Clones the project into FOLDER and does what the README says: the demo, own data, a run from the Prefect page's form, a
schedule, two runs compared in MLflow, and who trained on a document. Needs Chromium, half an hour and an otherwise idle
machine. Writes `docs/newcomer.md` with the times, and the pictures of `docs/` that show the pages.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "flows"))
sys.path.insert(0, str(ROOT / "tests"))

from browser import PrefectPage, browser_page  # noqa: E402
from pages import Pages, wait_until  # noqa: E402
from workspace import Workspace  # noqa: E402

OWN = "own.jsonl"
ENTRY = (
    "[{name: own, kind: jsonl, path: own.jsonl, columns: {text: text, id: id}, domain: web, "
    "license: CC0-1.0, attribution: the newcomer, limit: null}]"
)


class HalfHour:
    """What was done, how long it took, and what was seen."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.rows: list[tuple[str, str, float, str]] = []

    @contextmanager
    def step(self, what: str, how: str) -> Iterator[list[str]]:
        """Time a step; what is appended to the list is what the newcomer saw."""
        print(f"— {what}: {how}", flush=True)
        seen: list[str] = []
        started = time.monotonic()
        yield seen
        self.rows.append((what, how, time.monotonic() - started, "; ".join(seen)))
        print(f"  {self.rows[-1][2]:.0f} s. {self.rows[-1][3]}", flush=True)

    def type(self, command: str) -> str:
        """Type a command in the clone; its output."""
        environment = {**os.environ, "PATH": f"{self.root / '.venv/bin'}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(
            command, shell=True, cwd=self.root, env=environment, capture_output=True, text=True, check=False
        )
        (self.root.parent / "newcomer.log").open("a").write(f"$ {command}\n{done.stdout}{done.stderr}\n")
        if done.returncode:
            raise SystemExit(f"{command} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done.stdout

    def table(self) -> str:
        """The steps as Markdown."""
        lines = ["| step | typed or clicked | seconds | seen |", "|---|---|---|---|"]
        lines += [f"| {what} | {how} | {seconds:.0f} | {seen} |" for what, how, seconds, seen in self.rows]
        whole = sum(seconds for _, _, seconds, _ in self.rows)
        return "\n".join([*lines, f"| **in all** | | **{whole:.0f}** | |"])


def main(folder: Path) -> None:
    """Do it all, then write the page."""
    hour, shots = HalfHour(folder), ROOT / "docs"
    with hour.step("clone", "`git clone`"):
        subprocess.run(["git", "clone", "-q", ROOT, folder], check=True)
    with hour.step("install", "`make setup`"):
        hour.type("make setup")
    with hour.step("the chain", "`make demo`") as seen:
        said = hour.type("make demo")
        seen.append(re.findall(r"the chain took .*", said)[-1])
    with hour.step("nothing to do", "`make demo` again") as seen:
        seen.append(hour.type("make demo").strip().splitlines()[-1])
    with hour.step("own data", f"a file `{OWN}` in the folder") as seen:
        rows = [{"id": str(number), "text": text} for number, text in enumerate(paragraphs())]
        seen.append(f"{len(rows)} documents")
        (folder / OWN).write_text("\n".join(map(json.dumps, rows)) + "\n")
    with hour.step("the pages", "`make ui`"):
        workspace = Workspace(folder)
        workspace.env["PATH"] = f"{folder / '.venv/bin'}{os.pathsep}{workspace.env['PATH']}"
        pages = Pages(workspace)
    try:
        with browser_page() as page:
            prefect = PrefectPage(page, pages.prefect, shots)
            with hour.step(
                "a run from the form", "Deployments → chain → Run → Custom run, own data and `rl.tau=0.2`"
            ) as seen:
                prefect.start("chain", f"ingest.files={ENTRY}", "rl.tau=0.2")
                (shots / "form.png").rename(shots / "prefect-form.png")
                prefect.await_state("Completed", seconds=1800)
                page.wait_for_timeout(3000)
                prefect.shot("prefect-run")
                seen.append("every stage green")
            with hour.step("a schedule", "Schedules → + Schedule → Cron, every minute") as seen:
                prefect.schedule_every_minute("chain")
                wait_until(lambda: fired(pages), 200, "no scheduled run")
                page.wait_for_timeout(1000)
                prefect.open_deployment("chain")
                page.wait_for_timeout(2000)
                prefect.shot("prefect-schedule")
                seen.append("a run of its own, with nothing to do")
            with hour.step("compare two runs", "the MLflow address: tick two runs, Compare") as seen:
                page.goto(re.findall(r"^MLflow +(\S+)", pages.said(), re.MULTILINE)[0])
                page.wait_for_timeout(6000)
                page.screenshot(path=shots / "mlflow-runs.png")
                page.goto(compare_address(folder, pages.mlflow))
                page.wait_for_timeout(6000)
                page.screenshot(path=shots / "mlflow-compare.png")
                seen.append("what differs, and which way is better")
    finally:
        pages.stop()
    with hour.step("what was trained on", "`python -m k2core.lineage models/rl --documents`") as seen:
        own = [line.split("\t") for line in hour.type("python -m k2core.lineage models/rl --documents").splitlines()]
        own = [row for row in own if row[0].startswith("own/")]
        seen.append(f"{len(own)} own documents among them")
    with hour.step(
        "who trained on this document", f"`python -m k2core.lineage models/rl --document {own[0][0]}`"
    ) as seen:
        said = hour.type(f"python -m k2core.lineage models/rl --document {own[0][0]}")
        seen += [" ".join(line.split()) for line in said.splitlines() if " seen " in line][:2]
    write_page(hour)


def paragraphs() -> list[str]:
    """The newcomer's own texts: the prose of the project's documentation."""
    found = [
        " ".join(part.split())
        for path in sorted((ROOT / "docs").glob("*.md"))
        for part in path.read_text().split("\n\n")
        if part[0] not in "|#-`!<0123456789" and len(part.split()) > 45
    ]
    return list(dict.fromkeys(found))


def fired(pages: Pages) -> bool:
    """Whether a scheduled run has ended well."""
    runs = pages.api("flow_runs", sort="START_TIME_DESC")
    return any("auto-scheduled" in run["tags"] and run["state_type"] == "COMPLETED" for run in runs)


def compare_address(folder: Path, server: str) -> str:
    """What the Compare button opens for the first two pipeline runs that trained something."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("k2").experiment_id
    runs = client.search_runs([experiment], "tags.`k2.kind` = 'pipeline'", order_by=["attributes.start_time ASC"])
    chosen = [run.info.run_id for run in runs if run.data.metrics][:2]
    ids = ",".join(f"%22{run}%22" for run in chosen)
    return f"{server}/#/compare-runs?runs=[{ids}]&experiments=[%22{experiment}%22]"


def write_page(hour: HalfHour) -> None:
    """`docs/newcomer.md`."""
    from benchmarks.harness import machine

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=hour.root, capture_output=True, text=True, check=True
    ).stdout.strip()
    (ROOT / "docs" / "newcomer.md").write_text(
        "# A newcomer's half hour\n\nTyped and clicked by `python tests/newcomer.py FOLDER`, which writes this page "
        f"and the pictures in [running](running.md).\n\n{hour.table()}\n\nMeasured on {machine()}, commit {commit}.\n"
    )


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(Path(sys.argv[1]).resolve())
