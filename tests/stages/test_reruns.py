"""What a change re-runs, as DVC itself says of the real graph: typical changes, own data, and nothing for no change.

The workspace is the project with the micro recipe, a source of its own, and a lock file that was made for outputs of
one line each: whether a stage is up to date does not depend on what is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from filelock import FileLock
from workspace import ROOT, Workspace, project_files

from k2core.recipe import read_recipe

SOURCES = "sources/dvc.yaml:sources"
OWN = {
    "name": "own", "kind": "jsonl", "path": "own/*.jsonl", "domain": "knowledge", "license": "CC0-1.0",
    "attribution": "me", "limit": None,
}  # fmt: skip
PRETRAIN = ["pretrain@stable", "pretrain@decay", "pretrain@anneal", "pretrain@long"]
AFTER_BASE = ["sft", "critic", "rl", "evaluate@base", "evaluate@sft", "evaluate@rl", "export", "report"]
TRAINING = [*PRETRAIN, "extend_context", *AFTER_BASE]
AFTER_CURATE = ["rephrase", "questions", "recall", "train_tokenizer", "tokenize", "plan_mixture", *TRAINING]
FILES = ("params.yaml", "styles/plain.yaml", "k2core/chat/chat_template.jinja", "k2core/tracking/recorder.py")
PLANS = [f"data/mixture/{phase}.yaml" for phase in ("stable", "decay", "anneal", "long", "extend_context")]


def set_to(key: str, value: object) -> Callable[[Path], None]:
    """A change of the recipe: `key` (dotted) gets `value`."""

    def change(root: Path) -> None:
        content = yaml.safe_load((root / "params.yaml").read_text())
        *path, last = key.split(".")
        node = content
        for part in path:
            node = node[part]
        assert node[last] != value
        node[last] = value
        (root / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    return change


def append_to(file: str, text: str) -> Callable[[Path], None]:
    """A change of a file."""

    def change(root: Path) -> None:
        assert (root / file).exists()
        with (root / file).open("a") as opened:
            opened.write(text)

    return change


# The change; what re-runs; outputs that a stage of these writes again with the same content.
CHANGES: dict[str, tuple[Callable[[Path], None], list[str], list[str]]] = {
    "a comment in the recipe": (append_to("params.yaml", "# a thought\n"), [], []),
    "how many checkpoints are kept": (set_to("checkpoint.keep", 3), [], []),
    "another limit of a source": (
        set_to("ingest.wikipedia.limit", 300), 
        ["ingest", "tag", "grade", "tasks", "trajectories", "curate", *AFTER_CURATE], [],
    ),
    "a curation threshold": (set_to("curate.min_similarity", 0.71), ["curate", *AFTER_CURATE], []),
    "a prompt of rephrasing": (
        append_to("styles/plain.yaml", "# worded anew\n"),
        ["rephrase", "tokenize", "plan_mixture", *TRAINING], [],
    ),
    "the model's width": (
        # The tokenizer's vocabulary stays, and so does every table.
        set_to("model.intermediate_size", 96), TRAINING, [],
    ),
    "the decay's length": (
        set_to("pretrain.decay.tokens", 22528), ["plan_mixture", *TRAINING[1:]],
        [plan for plan in PLANS if "decay" not in plan],
    ),
    "RL's learning rate": (
        set_to("rl.muon_lr", 0.002), ["rl", "evaluate@rl", "export", "report"], [],
    ),
    "the chat template": (
        append_to("k2core/chat/chat_template.jinja", "{# a remark #}"),
        ["train_tokenizer", "tokenize", "plan_mixture", *TRAINING, "tasks", "trajectories", "curate", "rephrase",
         "questions", "recall"], [],
    ),
    "the recorder's code": (append_to("k2core/tracking/recorder.py", "\n# a remark\n"), [], []),
    "the rephrasing's own server": (
        set_to("rephrase.llm", {"base_url": "http://127.0.0.1:8001/v1"}),
        ["rephrase", "tokenize", "plan_mixture", *TRAINING], [],
    ),
    "the teacher's own model": (
        set_to("trajectories.llm", {"model": "another"}),
        ["trajectories", "sft", "critic", "rl", "evaluate@sft", "evaluate@rl", "export", "report"], [],
    ),
    "how much the report shows": (set_to("report.samples", 3), ["report"], []),
}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The project with a lock file for which every stage is up to date."""
    root = tmp_path_factory.mktemp("reruns") / "k2"
    for name in project_files():
        ours = not name.startswith(("metrics/", "tests/", "docs/")) and not name.endswith("dvc.lock")
        if ours:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes((ROOT / name).read_bytes())
    recipe = read_recipe(ROOT / "recipes/micro.yaml")
    recipe["ingest"]["files"] = [OWN]
    (root / "params.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    (root / "own").mkdir()
    (root / "own/a.jsonl").write_text('{"text": "one"}\n')
    workspace = Workspace(root)
    workspace.run("git", "init", "-q", ".")
    workspace.run("dvc", "repro", "-q", "--single-item", SOURCES)
    graph = Graph(root)
    for out in (out for name, stage in graph.stages.items() if name != "sources" for out in stage["outs"]):
        (root / out).parent.mkdir(parents=True, exist_ok=True)
        if out.suffix:
            (root / out).write_text(f"{out}\n")
        else:
            (root / out).mkdir(exist_ok=True)
            (root / out / "table").write_text(f"{out}\n")
    parts = {dep for stage in graph.stages.values() for dep in stage["deps"] if not (root / dep).exists()}
    for part in parts:  # of outputs that are folders
        (root / part).write_text(f"{part}\n")
    graph.repo.close()
    workspace.run("dvc", "commit", "-q", "--force")
    return workspace


class Graph:
    """The chain as DVC resolves it, and what DVC says of it."""

    def __init__(self, root: Path) -> None:
        self.repo = Repo(str(root))
        self.stages = {
            stage.addressing.rpartition("dvc.yaml:")[2]: {
                "deps": [Path(dep.fs_path).relative_to(root) for dep in stage.deps],
                "outs": [Path(out.fs_path).relative_to(root) for out in stage.outs],
            }
            for stage in self.repo.index.stages
        }

    def changed(self) -> set[str]:
        """Stages that have changed; the one that always runs aside."""
        said = self.repo.status()
        return {name.rpartition("dvc.yaml:")[2] for name, why in said.items() if why != ["always changed"]}

    def reruns(self, same: list[str]) -> set[str]:
        """The changed stages and those that read what these write, except where the output is the same."""
        touched = self.changed()
        while True:
            written = [out for name in touched for out in self.stages[name]["outs"]]
            more = {
                name for name, stage in self.stages.items() for dep in stage["deps"] if str(dep) not in same
                and any(dep.is_relative_to(out) or out.is_relative_to(dep) for out in written)
            }  # fmt: skip
            if more <= touched:
                return touched
            touched |= more


@pytest.fixture(scope="module")
def graph(project: Workspace) -> Iterator[Graph]:
    found = Graph(project.root)
    yield found
    found.repo.close()


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_reruns_exactly_what_depends_on_it(project: Workspace, graph: Graph, what: str) -> None:
    change, expected, same = CHANGES[what]
    before = {file: (project.root / file).read_bytes() for file in FILES}
    try:
        change(project.root)
        assert graph.reruns(same) == set(expected)
    finally:
        for file, content in before.items():
            (project.root / file).write_bytes(content)


def test_own_data_reruns_ingest_once_the_first_stage_has_looked(project: Workspace, graph: Graph) -> None:
    own, more, manifest = project.root / "own/a.jsonl", project.root / "own/b.jsonl", project.root / "data/sources.yaml"
    before, states = own.read_bytes(), {manifest.read_bytes()}

    def look() -> set[str]:
        project.run("python", "-m", "stages.sources", "--out", "data/sources.yaml")
        states.add(manifest.read_bytes())
        return graph.reruns([]) - {"sources"}

    everything = {"ingest", "tag", "grade", "tasks", "trajectories", "curate", *AFTER_CURATE}
    own.write_bytes(before + b'{"text": "appended"}\n')
    assert look() == everything
    more.write_bytes(before)
    assert look() == everything
    own.unlink()
    assert look() == everything
    assert len(states) == 4, "changed, added, removed: three more states"
    more.unlink()
    own.write_bytes(before)
    assert look() == set(), "all as it was"
    own.touch()
    (project.root / "own/notes.txt").write_text("does not fit the pattern")
    assert look() == set(), "another time, another file: the same content"


def test_nothing_changed_runs_the_first_stage_alone_and_leaves_the_lock(project: Workspace, graph: Graph) -> None:
    lock = project.root / "dvc.lock"
    before = lock.stat().st_mtime_ns
    said = project.run("dvc", "repro").stdout
    assert said.count("Running stage") == 1 and f"Running stage '{SOURCES}'" in said
    assert said.count("didn't change, skipping") == len(graph.stages) - 1
    assert lock.stat().st_mtime_ns == before and graph.changed() == set()


def test_a_repro_during_a_run_of_the_flow_is_refused_and_takes_nothing_from_it(project: Workspace) -> None:
    manifest, lock = project.root / "data/sources.yaml", project.root / "dvc.lock"
    before = manifest.read_bytes(), lock.read_bytes()
    with FileLock(project.root / "work/pipeline.lock"):
        (project.root / "work/pipeline.json").write_text('{"pid": "999999999", "flow run": "laptop"}')
        done = project.run("dvc", "repro", "--force", check=False)
    (project.root / "work/pipeline.json").unlink()
    assert done.returncode != 0 and done.stdout.count("Running stage") == 1
    sentence = "held by another pipeline run (pid 999999999, flow run laptop); wait for it or cancel it"
    assert done.stderr.count(sentence) == 1 and "Traceback" not in done.stderr
    assert (manifest.read_bytes(), lock.read_bytes()) == before


def test_a_faulty_recipe_ends_before_the_first_stage_and_says_all(project: Workspace) -> None:
    recipe = project.root / "params.yaml"
    before = recipe.read_text()
    content = yaml.safe_load(before)
    content["ingest"] |= {"files": [], "wikipedia": {"limit": 0, "translations": {}}}
    recipe.write_text(yaml.safe_dump(content, sort_keys=False))
    try:
        done = project.run("dvc", "repro", check=False)
    finally:
        recipe.write_text(before)
    assert done.returncode != 0 and done.stdout.count("Running stage") == 1
    for key in ("rephrase.rewrites.translate", "rephrase.rewrites.plain", "pretrain.stable.mixture.knowledge"):
        assert key in done.stderr
    assert "Traceback" not in done.stderr
