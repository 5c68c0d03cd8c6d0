"""The whole chain at the micro recipe, by `dvc repro`, with stages killed on the way."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import pytest
import yaml
from walks import WALKS, follow, steps
from workspace import ROOT, Workspace, project_files, project_git

pytestmark = pytest.mark.chain
KILLS = {
    "rephrase": "answers",
    "pretrain@decay": "work/pretrain@decay/*/step-*",
    "rl": "work/rl/*/step-*",
}
"""Stage → what it must have on disk before it is killed with SIGKILL: answers of the LLM, or files in its scratch."""


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, empty_history: Path) -> Workspace:
    """A copy of the project's tracked and new files, with the micro recipe."""
    root = tmp_path_factory.mktemp("chain") / "k2"
    for name in project_files():
        if not name.startswith("metrics/") and not name.endswith("dvc.lock"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, root / name)
    workspace = Workspace(root)
    workspace.run("git", "init", "-q", ".")
    workspace.run("python", "-m", "stages", "use", "micro")
    (root / ".prefect").mkdir()
    shutil.copy(empty_history, root / ".prefect")
    return workspace


def test_the_chain_survives_kills_and_is_reproducible(chain: Workspace) -> None:
    outputs = [_repro_and_kill(chain, stage, pattern) for stage, pattern in KILLS.items()]
    assert all(outputs), f"stages that ended before they could be killed: {outputs}"
    chain.run("dvc", "repro", timeout=900)
    stages = set(yaml.safe_load(chain.lock())["stages"])
    graph = yaml.safe_load((chain.root / "dvc.yaml").read_text())["stages"]
    expected = {
        name if "foreach" not in stage else f"{name}@{item}" for name, stage in graph.items()
        for item in stage.get("foreach", [""])
    }  # fmt: skip
    assert stages == expected

    disturbed = chain.lock()
    chain.env["K2_TRACKING"] = "off"
    chain.run("dvc", "repro", "--force", timeout=900)
    assert _difference(disturbed, chain.lock()) == []
    nothing = chain.run("dvc", "repro")
    assert re.findall(r"Running stage '(.*)':", nothing.stdout) == ["sources/dvc.yaml:sources"], "which only looks"


def test_what_the_chain_leaves(chain: Workspace) -> None:
    page = (chain.root / "report" / "index.html").read_text()
    assert "Plotly" in page
    assert "accepted" in page
    for name in ("base", "sft", "rl"):
        figures = json.loads((chain.root / "metrics" / f"evaluate-{name}.json").read_text())
        assert 0 < figures["heldout/bits_per_byte"] < 16
        assert 0 <= figures["tasks/pass_rate"] <= 1
    assert json.loads((chain.root / "metrics" / "export.json").read_text())["export/max_logit_difference"] < 1e-3


def test_the_commands_of_the_page_on_running_work(chain: Workspace) -> None:
    """Each line of the commands that look at a run, typed in the workspace that the chain left."""
    page = (ROOT / "docs/running.md").read_text()
    block = page.partition("Commands that look at a run")[2].split("```sh\n")[1].split("```")[0]
    commands = [line.split("#")[0].strip() for line in block.splitlines() if line.strip()]
    assert len(commands) >= 8
    printed = {command: chain.run(*shlex.split(command), timeout=300).stdout for command in commands}
    assert "heldout/bits_per_byte" in printed["dvc metrics show"]
    assert "recipes/micro" not in printed["dvc params diff"]
    assert (chain.root / "work" / "plots" / "index.html").exists()
    lineage = printed["python -m k2core.lineage models/export"].splitlines()
    assert len(lineage) <= 28 and lineage[1].startswith("ingest") and lineage[-2].startswith("export")
    for word in ("models/rl", "models/stable", "data/documents"):
        assert any(word in line for line in lineage)
    assert "CC-BY-SA-4.0" in printed["python -m k2core.lineage models/export --sources"]
    document = printed["python -m k2core.lineage models/rl --document wikipedia/Cameroon"]
    assert "https://en.wikipedia.org/wiki/Cameroon" in document and "trajectories" in document
    listed = printed["python -m k2core.lineage models/stable --documents"].splitlines()
    trained = json.loads((chain.root / "metrics" / "pretrain-stable.json").read_text())["train/tokens_seen"]
    rows = [line.split("\t") for line in listed[1:]]
    assert sum(int(row[4]) * float(row[5]) for row in rows) == pytest.approx(trained, rel=1e-3)


def test_a_threshold_reruns_curate_not_tag_or_grade(chain: Workspace) -> None:
    recipe = chain.root / "params.yaml"
    content = yaml.safe_load(recipe.read_text())
    before = recipe.read_text()
    content["curate"]["rules"]["knowledge"]["attributes"]["pii"]["max"] += 1
    content["curate"]["sampling"][0]["rate"] *= 0.9
    recipe.write_text(yaml.safe_dump(content, sort_keys=False))
    status = json.loads(chain.run("dvc", "status", "--json").stdout)
    recipe.write_text(before)
    assert "curate" in status
    assert not {"tag", "grade"} & set(status)


def test_a_phase_on_two_processes_survives_a_dead_rank_and_ends_like_one(chain: Workspace) -> None:
    """The real command under torchrun: one rank is killed, the same command again goes on, the figures agree."""
    chain.run("cp", "params.yaml", "two.yaml")
    chain.edit("two.yaml", "processes: 1", "processes: 2")
    command = shlex.split(
        "python -m stages.pretrain --recipe two.yaml --phase decay --init models/stable --tokens data/tokens "
        "--out work/two/model --plot work/two/plot.csv --metrics work/two/metrics.json"
    )
    before = set(chain.root.glob("work/pretrain@decay/*"))
    first = chain.start(*command)
    deadline = time.time() + 120
    while not (found := [p for p in chain.root.glob("work/pretrain@decay/*/step-*") if p.parent not in before]):
        assert first.poll() is None and time.time() < deadline, "no checkpoint before it ended"
        time.sleep(0.02)
    ranks = [p for p in chain.processes("stages.pretrain") if (p.info["environ"] or {}).get("RANK") == "1"]
    ranks[0].kill()
    assert first.wait(120) != 0
    assert not (chain.root / "work/two/model").exists() and found
    said = chain.run(*command).stdout
    assert "resuming after step" in said and "2 processes" in said
    figures, wanted = (
        json.loads((chain.root / path).read_text()) for path in ("work/two/metrics.json", "metrics/pretrain-decay.json")
    )
    assert figures.keys() == wanted.keys()
    assert figures["train/tokens_seen"] == wanted["train/tokens_seen"]
    for name in ("train/loss", "heldout/bits_per_byte"):
        assert abs(figures[name] - wanted[name]) < 5e-3, name


def test_the_commands_of_the_page_on_trying_a_change_work(chain: Workspace) -> None:
    """After the walk of CONTRIBUTING that each section names: what is new is in the figures, and little has run."""
    sections = dict(re.findall(r"^## (.+?)\n(.+?)(?=^## |\Z)", (ROOT / "docs/trying.md").read_text(), re.M | re.S))
    walks = {title.partition(":")[0]: text for title, text in WALKS.items()}
    expected = {
        "A gym environment": (["evaluate@base"], "tasks/pass_rate/next_number"),
        "A signal": (["tag"], "Name: exclamations"),
        "A source": (["ingest"], "- origin: Web: one line of verse."),
    }
    assert [*sections] == [*expected, "Back"]
    for name, (stages, figure) in expected.items():
        follow(chain, walks[name])
        (step,) = steps(sections[name])
        said = "".join(chain.type(step.block))
        assert re.findall(r"Running stage '(.*)':", said)[-len(stages) :] == stages and figure in said


def _repro_and_kill(chain: Workspace, stage: str, pattern: str) -> bool:
    """Run the chain until `stage` has made something, and kill that stage; whether that happened."""
    module = f"stages.{stage.split('@')[0]}"
    repro = chain.start("dvc", "repro")
    log: list[str] = []
    before: int | None = None
    while repro.poll() is None:
        found = [process for process in chain.processes(module) if "python" in process.info["name"]]
        things = 0
        if found:
            things = _answers(chain) if pattern == "answers" else len(list(chain.root.glob(pattern)))
            before = things if before is None else before
        if found and things > (before or 0):
            os.kill(found[0].pid, signal.SIGKILL)
            log = repro.communicate()[0].splitlines()
            assert repro.returncode != 0, log[-5:]
            return True
        time.sleep(0.02 if found else 0.3)  # looking costs a third of a core, which the stages before need
    log = repro.communicate()[0].splitlines()
    assert repro.returncode == 0, "\n".join(log[-30:])
    return False


def _answers(chain: Workspace) -> int:
    """Answers in the workspace's replay cache."""
    with contextlib.closing(sqlite3.connect(chain.root / "work" / "answers.sqlite")) as cache:
        return int(cache.execute("SELECT count(*) FROM answers").fetchone()[0])


def _difference(first: str, second: str) -> list[str]:
    """Paths whose digests differ between two dvc.lock files."""

    def digests(text: str) -> dict[str, str]:
        return {
            f"{name}: {item['path']}": item["md5"]
            for name, stage in yaml.safe_load(text)["stages"].items()
            for item in stage.get("outs", [])
        }

    one, two = digests(first), digests(second)
    return sorted(key for key in one.keys() | two.keys() if one.get(key) != two.get(key))


def test_gitignore_covers_every_output() -> None:
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    outs = [str(out).replace("${item}", "x").replace("${key}", "x")
            for stage in graph.values() for out in stage.get("do", stage).get("outs", [])]  # fmt: skip
    assert sorted(project_git("check-ignore", *outs)) == sorted(outs)
    assert Path(ROOT / ".dvcignore").exists()
