"""Changes that users make, each applied to a copy of the project: it works, and it touches no more files than here.

`params.yaml` is one of the files where the recipe changes: `make recipe` writes it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from workspace import ROOT, Workspace, project_files

SOURCE = '''"""Web: one line of verse."""

from k2core.corpus.documents import Document
from k2core.recipe import Section

NAME, DOMAIN = "verse", "web"


class Source(Section):
    """A line."""

    limit: int


def installed(config):
    return {}


def documents(config):
    for number in range(config.limit):
        yield Document(f"verse/{number}", "A line.", DOMAIN, NAME, "CC0-1.0", "here", "nobody", "en")
'''
SIGNAL = '''"""Shouting."""

COLUMNS = {"exclamations": "int64"}


def attributes(text):
    return {"exclamations": text.count("!")}
'''
ENVIRONMENT = '''"""Say yes."""

from k2core.gym.environments.sort_numbers import SortNumbers


def make():
    return SortNumbers(name="say_yes")
'''
BENCHMARK = '''"""A constant."""

from k2core.evals.subject import Measured


def measure(subject):
    return Measured({"constant/one": {"value": 1.0}})
'''
STAGE = '''"""Counts the parameters' letters."""

from pathlib import Path

from k2core.recipe import Section
from k2core.stage import Job, Metrics, main

SECTION = "letters"


class Params(Section):
    """What is counted."""

    word: str


def run(params: Params, out: Path, job: Job) -> Metrics:
    out.write_text(str(len(params.word)))
    return {"letters": float(len(params.word))}


if __name__ == "__main__":
    main(run, SECTION)
'''
GRAPH = """
  letters:
    desc: Counts
    cmd: python -m stages.letters --out data/letters.txt --metrics metrics/letters.json
    params: [letters]
    outs: [data/letters.txt]
    metrics:
      - metrics/letters.json: {cache: false}
    deps: []
"""
LAPTOP, PARAMS = "recipes/laptop.yaml", "params.yaml"
Change = Callable[["Project"], str]


class Project(Workspace):
    """A copy of the project's own files."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        rooms = ("k2core/", "stages/", "recipes/", "styles/", "sources/", "dvc.yaml", PARAMS)
        self.before = {name: (ROOT / name).read_bytes() for name in project_files() if name.startswith(rooms)}
        for name, content in self.before.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)

    def add(self, file: str, text: str) -> None:
        assert not (self.root / file).exists()
        (self.root / file).write_text(text)

    def changed(self) -> set[str]:
        """Files that are new or differ, but for what is made and ignored."""
        now = {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}
        now = {name for name in now if "__pycache__" not in name and not name.startswith("work/")}
        return {name for name in now if self.before.get(name) != (self.root / name).read_bytes()}

    def python(self, code: str) -> str:
        return self.run("python", "-c", code).stdout.strip()


def source(project: Project) -> str:
    project.add("k2core/corpus/sources/builtin/verse.py", SOURCE)
    project.edit(LAPTOP, "\ningest:\n", "\ningest:\n  verse: {limit: 2}\n")
    return project.python(
        "from k2core.recipe import load_section; from pathlib import Path; from stages.ingest import *;"
        f"p = load_section(Params, Path('{LAPTOP}'), 'ingest');"
        "print([d.id for d in SOURCES['verse'].documents(p.verse)] == ['verse/0', 'verse/1'])"
    )


def signal(project: Project) -> str:
    project.add("k2core/corpus/signals/exclamations.py", SIGNAL)
    project.edit(
        LAPTOP, "    web:\n      languages: [en]\n      attributes:\n",
        "    web:\n      languages: [en]\n      attributes:\n        exclamations: {max: 9}\n",
    )  # fmt: skip
    return project.python(
        "from k2core.corpus.tagging import tag; from k2core.corpus.duplicates.dedup import MinhashConfig;"
        "m = MinhashConfig(ngram_words=5, buckets=2, hashes_per_bucket=2, seed=1);"
        "print(tag({'id': 'a', 'text': 'Oh! No!', 'domain': 'web'}, 100, m)['exclamations'] == 2)"
    )


def style(project: Project) -> str:
    shutil.copyfile(project.root / "styles/plain.yaml", project.root / "styles/blunt.yaml")
    project.edit(LAPTOP, "    plain: {documents: 3", "    blunt: {documents: 1, per_document: 1, perspectives: []}\n"
                 "    plain: {documents: 3")  # fmt: skip
    return "True"


def environment(project: Project) -> str:
    project.add("k2core/gym/environments/say_yes.py", ENVIRONMENT)
    project.edit(LAPTOP, "demonstrations: {sort_numbers: 1500,", "demonstrations: {say_yes: 10, sort_numbers: 1500,")
    project.edit(LAPTOP, "  pool: {sort_numbers", "  pool: {say_yes: 64, sort_numbers")
    return project.python("from k2core.gym.registry import text_environments as t; print('say_yes' in t())")


def benchmark(project: Project) -> str:
    project.add("k2core/evals/benchmarks/constant.py", BENCHMARK)
    return project.python(
        "from k2core.recipe import modules_in; b = modules_in('k2core.evals.benchmarks');"
        "print(b['constant'].measure(None).scores['constant/one']['value'] == 1)"
    )


def schedule(project: Project) -> str:
    project.edit(
        "k2core/optim/learning_rate.py", "Kind = Literal",
        "@shape\ndef square(done: float) -> float:\n    return 1 - done**2\n\n\nKind = Literal",
    )  # fmt: skip
    project.edit(LAPTOP, "{kind: cosine, lr_start: *stable_end", "{kind: square, lr_start: *stable_end")
    return project.python("from k2core.optim.learning_rate import *; print(make_rates('square', 3, 1, 0)(1) == 0.75)")


def optimiser(project: Project) -> str:
    project.add("k2core/optim/kinds/descent.py", (ROOT / "tests/descent.py").read_text())
    recipe = (project.root / LAPTOP).read_text()
    start, end = recipe.index("\noptimizer:\n"), recipe.index("\n\n", recipe.index("\noptimizer:\n"))
    project.edit(LAPTOP, recipe[start:end], "\noptimizer: {kind: descent, lr: 0.1}")
    return project.python(
        "from k2core.recipe import load_section; from pathlib import Path;"
        "from k2core.optim.optimizer import OptimizerConfig;"
        f"print(load_section(OptimizerConfig, Path('{LAPTOP}'), 'optimizer').lr == 0.1)"
    )


def phase(project: Project) -> str:
    recipe = (project.root / LAPTOP).read_text()
    start, end = recipe.index("\n  long:"), recipe.index("\n\n", recipe.index("\n  long:"))
    settings = recipe[start:end].split("\n", 2)[2].replace("*anneal_end", "*long_end").replace("&long_end ", "")
    project.edit(LAPTOP, recipe[start:end], f"{recipe[start:end]}\n  longer:\n{settings}")
    project.edit("dvc.yaml", "      long: {init: models/anneal}\n",
                 "      long: {init: models/anneal}\n      longer: {init: models/long}\n")  # fmt: skip
    project.edit("dvc.yaml", "--init models/long ", "--init models/longer ")
    project.edit("dvc.yaml", "      - models/long\n", "      - models/longer\n")
    return project.python(
        "from k2core.recipe import load_section; from pathlib import Path; from stages.plan_mixture import Pretrain;"
        f"from k2core.tracking.headlines import table; recipe = Path('{LAPTOP}');"
        "names = [line.name for line in table(recipe)];"
        "print([*load_section(Pretrain, recipe, 'pretrain').phases][-1] == 'longer'"
        " and 'bits per byte 5 longer: lower is better' in names)"
    )


def stage(project: Project) -> str:
    project.add("stages/letters.py", STAGE)
    project.edit("dvc.yaml", "\nstages:\n", "\nstages:" + GRAPH)
    project.run("python", "-m", "stages", "deps")
    (project.root / LAPTOP).write_text((project.root / LAPTOP).read_text() + "\nletters: {word: verse}\n")
    return project.python("print('stages/letters.py' in open('dvc.yaml').read())")


CHANGES: dict[str, tuple[Change, int]] = {
    "a source": (source, 3),
    "a signal": (signal, 3),
    "a style": (style, 3),
    "a gym environment": (environment, 3),
    "a benchmark": (benchmark, 1),
    "a learning-rate schedule": (schedule, 3),
    "an optimiser": (optimiser, 3),
    "a pre-training phase": (phase, 3),
    "a stage": (stage, 4),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_works_and_touches_few_files(tmp_path: Path, name: str) -> None:
    change, files = CHANGES[name]
    project = Project(tmp_path)
    assert change(project) == "True"
    project.run("python", "-m", "stages", "use", "laptop")
    project.run("python", "-m", "stages", "check")
    assert len(project.changed()) == files, sorted(project.changed())
