"""README, CONTRIBUTING, docs/: links resolve, named files and commands exist, written blocks are current."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import pytest
from workspace import ROOT

from benchmarks import chain, corpus, headlines, pages, per_head
from benchmarks import command as topics
from docs import graph
from experiments import ablations, policy, report

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MADE = ("data", "models", "plots", "metrics", "report", "work")
"""Folders that runs of the chain fill."""
DATED = "log.md"
"""What it names was there on that day."""
BLOCK = re.compile(r"<!-- ([\w-]+):begin -->\n(.*?)<!-- \1:end -->", re.DOTALL)
RUN_BY = {
    "make demo": ("tests/flows/test_pipeline.py", "flows.pipeline"),
    "make test": (".ci/run", "make test"),
    "make chat": ("tests/talk/test_talk.py", "k2core.talk"),
    "make serve": ("tests/serve/test_server.py", "k2core.serve"),
    "make ui": ("tests/flows/pages.py", "flows.pages"),
    "make recipe": ("tests/chain/test_chain.py", '"stages", "use"'),
    "python -m k2core.evals": ("tests/evals/test_side_by_side.py", "k2core.evals"),
    "python -m k2core.lineage": ("tests/chain/test_chain.py", "k2core.lineage"),
}
"""Command of the README → the file that runs it or what its make target starts, and how that is written there."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """The text of a page without its listings."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of the headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_and_picture_is_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = unquote(target).partition("#")
        found = (page.parent / file).resolve() if file else page
        assert found.is_relative_to(ROOT) and found.exists(), f"{name_of(page)}: no {target}"
        assert not anchor or anchor in anchors(found), f"{name_of(page)}: {target}: no such heading"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != DATED], ids=name_of)
def test_every_file_and_test_that_is_named_is_there(page: Path) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    rooms = {name.partition("/")[0] for name in tracked if "/" in name}
    inner = {name.split("/")[1] for name in tracked if name.startswith("k2core/")}
    made_by_walks = re.findall(r"Create `([^`]+)`", page.read_text())
    for named in re.findall(r"`([\w./-]+/[\w./-]*(?:::\w+)?)`", prose(page)):
        file, _, test = named.partition("::")
        first = file.partition("/")[0]
        made = file in made_by_walks or first in MADE or file.endswith(".lock") or "NAME" in file
        figure = first not in rooms and "." not in file and not file.endswith("/")  # `optim/update_rms`
        if made or figure or first not in rooms | inner:
            continue
        places = [ROOT / file, ROOT / "k2core" / file]
        there = [place for place in places if place.exists()]
        assert there, f"{name_of(page)}: no {named}"
        assert not test or f"def {test}(" in there[0].read_text(), f"{name_of(page)}: no {named}"
    tests = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for test in re.findall(r"`(?:[\w./]+::)?(test_\w+)`", prose(page)):
        assert f"def {test}(" in tests, f"{name_of(page)}: no {test}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != DATED], ids=name_of)
def test_every_command_exists(page: Path) -> None:
    makefile, text = (ROOT / "Makefile").read_text(), page.read_text()
    for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{name_of(page)}: no make {target}"
    for module in re.findall(r"python -m ([a-z_][\w.]*\w)", text):
        if f"Create `{module.replace('.', '/')}.py`" not in text:
            assert importlib.util.find_spec(module), f"{name_of(page)}: no python -m {module}"


def test_every_command_of_the_readme_is_run_by_a_test() -> None:
    text = (ROOT / "README.md").read_text()
    named = {f"make {target}" for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)}
    named |= {f"python -m {module}" for module in re.findall(r"python -m ([a-z_][\w.]*\w)", text)}
    assert named == set(RUN_BY)
    makefile = (ROOT / "Makefile").read_text()
    for command, (file, words) in RUN_BY.items():
        assert words in (ROOT / file).read_text(), f"{file} does not run {command}"
        if command.startswith("make ") and words != command:
            body = re.search(rf"^{command[5:]}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)[1]
            assert words.replace('", "', " ").strip('"') in body, f"{command} does not run {words}"


def test_the_readme_is_short_and_its_tree_is_whole() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 130
    tree = re.search(r"## Where things are\n\n```\n(.*?)```", text, re.DOTALL)[1]
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    folders = {path.partition("/")[0] for path in listed if "/" in path and not path.startswith((".", "metrics/"))}
    folders |= {"/".join(path.split("/")[:2]) for path in listed if path.startswith("k2core/") and path.count("/") > 1}
    assert {name.rstrip("/") for name in re.findall(r"[\w/]+/(?=[\s,])", tree)} == folders - {"k2core"}


def test_the_index_has_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text()
    assert set(re.findall(r"^\| \[[\w-]+\]\(([\w-]+\.md)\)", index, re.MULTILINE)) == {
        page.name for page in PAGES if page.parent.name == "docs" and page.name != "README.md"
    }


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_rows_of_a_table_have_as_many_cells(page: Path) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", prose(page), re.MULTILINE):
        cells = [re.sub(r"`[^`]*`|\\\|", "", row).count("|") for row in table.splitlines()]
        assert len(set(cells)) == 1, f"{name_of(page)}:\n{table}"


def test_the_picture_of_the_graph_is_current() -> None:
    assert graph.PICTURE.read_text() == graph.draw(graph.read((ROOT / "dvc.yaml").read_text())), "python -m docs.graph"


def blocks(page: str) -> dict[str, str]:
    return {name: content.rstrip("\n") for name, content in BLOCK.findall((ROOT / page).read_text())}


def test_written_blocks_are_those_of_the_committed_figures() -> None:
    figures = json.loads((ROOT / chain.FIGURES).read_text())
    rows = json.loads((ROOT / "benchmarks/results.json").read_text())
    measurements = blocks(pages.MEASUREMENTS)
    assert measurements["chain"] == "\n".join(chain.chain_block(figures))
    assert measurements["bench"] == topics.bench_block(topics.in_order(rows))
    assert blocks(pages.README)["headlines"] == headlines.block(figures, rows)
    assert blocks("docs/corpus.md")["corpus"] == corpus.table(topics.in_order(rows, corpus.TOPIC))
    heads = json.loads((ROOT / "benchmarks/per_head.json").read_text())
    assert blocks("docs/model.md")["per_head"] == per_head.markdown(heads)
    results = json.loads((ROOT / "experiments/results/table1.json").read_text())
    assert blocks("docs/table1.md")["table1"] == report.markdown(results)
    for name in ("ablations", "seeds"):
        ablated = json.loads((ROOT / f"experiments/results/{name}.json").read_text())
        assert blocks("docs/ablations.md")[name] == ablations.markdown(ablated), name
    measured = ROOT / "experiments/results/policy.json"
    table = policy.markdown(json.loads(measured.read_text())) if measured.exists() else ""
    assert blocks("docs/rl.md")["policy"] == table


def test_a_missed_goal_is_said() -> None:
    figures = json.loads((ROOT / chain.FIGURES).read_text()) | {"seconds": 1201.0}
    assert "| 1201 s | 1200 s | **missed** |" in headlines.block(figures, [])


def fine_figures(text: str) -> set[str]:
    """Figures that nobody types by chance: three digits behind the point, four in all, or hundreds of seconds."""
    found = re.findall(r"(?<![\d.,/])\d+\.\d{2,}(?![\d.]*\d)", text)
    digits = {figure: (len(figure.partition(".")[2]), len(figure.replace(".", "").lstrip("0"))) for figure in found}
    seconds = {figure.replace(",", "") for figure in re.findall(r"(?<![\d.,])\d[\d,]{2,} s\b", text)}
    return seconds | {
        figure for figure, (behind, significant) in digits.items() if significant >= (3 if behind > 2 else 4)
    }


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != DATED], ids=name_of)
def test_no_sentence_repeats_a_written_figure(page: Path) -> None:
    """A sentence that quotes a table which a command writes is wrong after the next measurement.

    The ends of intervals and other pages' experiments are left out: they are so many that some figure is equal to one
    by chance.
    """
    near = {page, ROOT / "README.md", ROOT / "docs/measurements.md"}
    written = "\n".join(content for one in near for _, content in BLOCK.findall(one.read_text()))
    written = re.sub(r"\([-+.\d]+ to [-+.\d]+\)", "", written)
    repeated = fine_figures(written) & fine_figures(BLOCK.sub("", prose(page)))
    assert not repeated, f"{name_of(page)}: {sorted(repeated)}"


def test_the_page_of_one_walk_says_when_and_where_it_was() -> None:
    """It has times of what `benchmarks/chain.json` times as well."""
    page = (ROOT / "docs/newcomer.md").read_text()
    assert re.search(r"one walk, on \d{4}-\d\d-\d\d \(\d+ cores, .+; commit [0-9a-f]{7,}\)\.$", page, re.MULTILINE)
