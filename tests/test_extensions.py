"""The walks of CONTRIBUTING.md, each followed in a copy of the project: it works, and touches as many files as it says.

`params.yaml` is one of the files where the recipe changes: `python -m stages use laptop` writes it.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from walks import WALKS, edited, follow, steps
from workspace import BIN, ROOT, Workspace, project_files

BEFORE = """
from pathlib import Path
from k2core.recipe import load_section, modules_in
from stages.checks import recipe_faults
recipe = Path('recipes/laptop.yaml')
assert recipe_faults(Path('params.yaml')) == []
"""
WORKS = {
    "A source": """
from stages.ingest import SOURCES, Params
config = load_section(Params, recipe, 'ingest').verse
assert [document.id for document in SOURCES['verse'].documents(config)] == ['verse/0', 'verse/1']
""",
    "A signal": """
from k2core.corpus.duplicates.dedup import MinhashConfig
from k2core.corpus.tagging import tag
minhash = MinhashConfig(ngram_words=5, buckets=2, hashes_per_bucket=2, seed=1)
assert tag({'id': 'a', 'text': 'Oh! No!', 'domain': 'web'}, 100, minhash)['exclamations'] == 2
""",
    "A rephrasing style": """
from k2core.synthesis.rephrasing.styles import load_styles
assert 'blunt' in load_styles(Path('styles')).styles
""",
    "A tool domain": """
from random import Random
from k2core.agentic.domains.taxonomy import Draws, domains
from k2core.agentic.tools.evolve import plain_tools
library = domains()['library']
for split in ('train', 'heldout'):
    reader, loan = library.record(Draws(Random(1), split))
    assert len(reader.split()) == 2 and loan['kind'] in ('book', 'film', 'map')
assert any('loan' in tool.name for tool in plain_tools(library))
""",
    "A world": """
from k2core.agentic.dialogues.proof import fault
from k2core.agentic.tasks.richer import RicherMaker
from k2core.agentic.tools.evolve import world_tools
from k2core.agentic.worlds.world import worlds
tools = {tool.name: tool for world in worlds().values() for tool in world_tools(world)}
makers = [RicherMaker(tools, {kind: 1}, [1], 1) for kind in ('steps', 'allowed', 'forbidden', 'rights')]
tasks = [maker.task(split, i) for maker in makers for split in ('train', 'heldout') for i in range(20)]
of_it = [task for task in tasks if task['domain'] == 'library']
assert len(of_it) > 9 and not any(fault(task, tools) for task in of_it)
""",
    "A kind of recall document": """
assert modules_in('k2core.synthesis.recall.kinds')['echo'].make(None, None, 'Oh!', 600) == 'Oh! Oh!'
""",
    "A gym environment": """
from k2core.gym.registry import text_environments
environment = text_environments()['next_number']
for split in ('train', 'heldout'):
    item = environment.item(1, split, 7)
    assert item == environment.item(1, split, 7)
    assert environment.score(item, item.gold['content']) == 1 and environment.score(item, 'no') == 0
""",
    "A pre-training phase": """
from k2core.tracking.headlines import table
from stages.plan_mixture import Pretrain
assert [*load_section(Pretrain, recipe, 'pretrain').phases][-1] == 'longer'
assert 'bits per byte 5 longer: lower is better' in [line.name for line in table(recipe)]
""",
    "An optimiser": """
from k2core.optim.optimizer import OptimizerConfig
assert load_section(OptimizerConfig, recipe, 'optimizer').lr == 0.1
""",
    "A benchmark": """
found = modules_in('k2core.evals.benchmarks')['constant'].measure(None)
assert found.scores['constant/one']['value'] == 1
""",
    "A learning-rate schedule": """
from k2core.optim.learning_rate import make_rates
assert make_rates('square', 3, 1, 0)(1) == 0.75
""",
    "A stage": """
assert 'stages/letters.py' in Path('dvc.yaml').read_text()
""",
}
"""Walk → what must hold after it."""


class Project(Workspace):
    """A copy of the project's own files."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        rooms = (
            "k2core/", "stages/", "recipes/", "styles/", "declarations/", "sources/", "dvc.yaml", "params.yaml",
            "tests/descent.py",
        )  # fmt: skip
        self.before = {name: (ROOT / name).read_bytes() for name in project_files() if name.startswith(rooms)}
        for name, content in self.before.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)

    def changed(self) -> set[str]:
        """Files that are new or differ, but for what is made and ignored."""
        now = {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}
        now = {name for name in now if "__pycache__" not in name and not name.startswith("work/")}
        return {name for name in now if self.before.get(name) != (self.root / name).read_bytes()}


def test_each_walk_has_its_check() -> None:
    assert [title.partition(":")[0] for title in WALKS] == list(WORKS)


@pytest.mark.parametrize("title", WALKS)
def test_a_walk_works_and_touches_as_many_files_as_it_says(tmp_path: Path, title: str) -> None:
    name, _, files = title.partition(": ")
    project = Project(tmp_path)
    follow(project, WALKS[title])
    project.run("python", "-c", BEFORE + WORKS[name])
    assert len(project.changed()) == int(files), sorted(project.changed())


def test_the_code_of_the_walks_has_the_types_that_make_lint_asks_for(tmp_path: Path) -> None:
    """As modules of their own: all that they import comes from mypy's cache, which `make lint` fills."""
    files = []
    for language, file, block in (step for text in WALKS.values() for step in steps(text)):
        if language == "sh":
            copied = [line.split()[1] for line in block.splitlines() if line.startswith("cp ")]
            code = [(name, (ROOT / name).read_text()) for name in copied]
        elif language == "diff":
            code = [(file, edited(file, (ROOT / file).read_text(), block))] if file.endswith(".py") else []
        else:
            code = [(file, block)] if language == "python" else []
        for name, content in code:
            files.append(tmp_path / Path(name).name)
            files[-1].write_text(content)
    assert len({file.name for file in files}) == len(files) >= 8
    done = subprocess.run([BIN / "mypy", *files], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
