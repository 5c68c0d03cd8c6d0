"""The paper's Table 1 in miniature: what a model knows after raw text × 10 epochs, 1 rephrasing × 10 epochs,
10 rephrasings × 1 epoch (K2 §2.2).

Every arm goes on from the same base with the same token budget. A finished arm is a file under --work and is not
trained again. Results go to experiments/results/table1.json, the tables into docs/table1.md.
"""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import typer

from benchmarks.harness import ROOT, commit, machine
from benchmarks.pages import rewrite as write_between
from experiments import articles, grammar_rewriter, llm_rewriter, report, statistics
from experiments.arms import BASE, Trainer, arm_texts
from experiments.articles import Material
from experiments.settings import Rewriter, Settings, load_settings
from k2core.corpus.blocks import blocks_of
from k2core.llm.config import LLMConfig
from k2core.machine import Compute
from k2core.optim.optimizer import OptimizerConfig
from k2core.recipe import RecipeError, load_section
from k2core.stage import Job, StageError
from k2core.storage import StorageError, dvc_md5, read_table, write_json
from k2core.synthesis.fidelity import facts
from k2core.synthesis.questions.grammar import title_of
from k2core.synthesis.rephrasing.linked import Titles
from k2core.synthesis.rephrasing.styles import load_styles
from k2core.training.config import ParallelConfig
from k2core.training.spikes import SpikeConfig
from stages.rephrase import Params

REWRITERS: tuple[Rewriter, ...] = ("grammar", "formats", "joint", "llm")
SIZES = Path(__file__).with_name("table1.yaml")

app = typer.Typer(add_completion=False, help=__doc__, pretty_exceptions_enable=False)


@app.command()
def main(
    rewriters: list[str] = typer.Argument(None, help=f"of {', '.join(REWRITERS)}; default: all"),
    workspace: Path = typer.Option(Path("."), help="a finished workspace: data/curated, data/tokenizer, params.yaml"),
    base: str = typer.Option("long", help="the pre-trained model under models/ that every arm goes on from"),
    sizes: Path = typer.Option(SIZES, help="the sizes"),
    work: Path = typer.Option(Path("work/table1"), help="finished arms and the language model's answers"),
    results: Path = typer.Option(ROOT / "experiments/results/table1.json", help="the figures"),
    page: Path = typer.Option(ROOT / "docs/table1.md", help="the page with the tables, the picture beside it"),
) -> None:
    """Measure."""
    chosen = rewriters or list(REWRITERS)
    if unknown := sorted(set(chosen) - set(REWRITERS)):
        raise typer.BadParameter(f"no rewriter {unknown[0]}; there are {', '.join(REWRITERS)}")
    try:
        for rewriter in chosen:
            settings = load_settings(rewriter, sizes)
            measured = measure(rewriter, settings, workspace, base, work)
            content = json.loads(results.read_text()) if results.exists() else {}
            content[rewriter] = measured
            results.parent.mkdir(parents=True, exist_ok=True)
            write_json(results, content)
            write_between(page, "table1", report.markdown(content))
            report.draw(content, page.with_suffix(".svg"))
    except (RecipeError, StorageError, StageError, ConnectionError) as error:
        print(f"table1: {error}", flush=True)
        raise typer.Exit(1) from None


def measure(rewriter: Rewriter, settings: Settings, workspace: Path, base: str, work: Path) -> dict[str, Any]:
    """All arms of one rewriter, as an entry of table1.json."""
    recipe, model = workspace / "params.yaml", workspace / "models" / base
    compute = load_section(Compute, recipe, "compute")
    trainer = Trainer(
        base=model, tokenizer=workspace / "data/tokenizer", compute=compute, settings=settings,
        optimizer=load_section(OptimizerConfig, recipe, "optimizer"),
        spikes=load_section(SpikeConfig, recipe, "spikes"),
        micro_batch_tokens=load_section(ParallelConfig, recipe, "parallel").micro_batch_tokens,
    )  # fmt: skip
    inputs = [dvc_md5(path) for path in (recipe, model, trainer.tokenizer, workspace / "data/curated")]
    key = hashlib.md5(json.dumps([settings.model_dump(), inputs, _code()]).encode()).hexdigest()
    folder = work / f"{rewriter}-{key[:12]}"
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(f"table1 {rewriter}", folder, None)
    begun = time.monotonic()
    material = _material(rewriter, settings, workspace, compute, folder / "material.json", work, job)
    trainings = [(BASE, 0), *((arm, seed) for seed in settings.seeds for arm in settings.arms)]
    results = []
    for arm, seed in trainings:
        path = folder / f"{arm}-{seed}.json"
        if not path.exists():
            job.say(f"{arm}, seed {seed}; to {path}")
            write_json(path, trainer.run(material, arm, seed))
        results.append(json.loads(path.read_text()))
    job.say(f"{len(results)} results in {folder}, {time.monotonic() - begun:.0f} s")
    asked = [(number, item) for number, article in enumerate(material.articles) for item in article.items]
    texts = [text for arm in settings.arms for seed in settings.seeds for text in arm_texts(material, arm, seed)]
    trained = [result["figures"] for result in results if result["arm"] != BASE]
    return {
        **statistics.summarise(results, [number for number, _ in asked], settings.resamples, compute.seed),
        "arms": {arm: _mean([r["figures"] for r in results if r["arm"] == arm]) for arm in (BASE, *settings.arms)},
        "kinds": statistics.by_kind(results, [item.kind for _, item in asked]),
        "tokens": fmean(sum(v for n, v in f.items() if n.startswith("mixture/tokens/")) for f in trained),
        "training_seconds": fmean(result["seconds"] for result in results if result["arm"] != BASE),
        "material": material.figures(texts), "settings": settings.model_dump(mode="json"), "base": base,
        "machine": machine(), "commit": commit(), "command": f"python -m experiments.table1 {rewriter}",
    }  # fmt: skip


def _material(
    rewriter: Rewriter, settings: Settings, workspace: Path, compute: Compute, path: Path, work: Path, job: Job
) -> Material:
    if path.exists():
        return Material.load(path)
    columns = ["id", "text", "source", "domain", "split", "attribution"]
    documents = read_table(workspace / "data/curated/documents.parquet", columns)
    common = facts.common_words(row["text"] for row in documents if row["domain"] == "knowledge")

    def by_grammar(pairs: list[tuple[str, str]]) -> list[list[str] | None]:
        made = [grammar_rewriter.versions(title.partition(" (")[0], text) for title, text in pairs]
        return [
            versions[: settings.versions]
            if versions and all(grammar_rewriter.keeps_facts(text, version, common) for version in versions)
            else None
            for versions, (_, text) in zip(made, pairs, strict=True)
        ]

    def by_llm(pairs: list[tuple[str, str]]) -> list[list[str]]:
        llm, params = (
            load_section(c, workspace / "params.yaml", n) for c, n in ((LLMConfig, "llm"), (Params, "rephrase"))
        )
        library, cache = load_styles(ROOT / "styles"), work / "answers.sqlite"
        return llm_rewriter.rephrase(pairs, settings, params, library, llm, compute, common, cache, job)

    titles = Titles(blocks_of("curated", workspace / "data/curated/documents.parquet"), *settings.characters)

    def named(row: dict[str, Any]) -> tuple[str, str] | None:
        if titles.find(row) is None:
            return None
        [other] = titles.partners([row])
        return title_of(other["attribution"]), other["text"]

    rephrase, link = by_llm if rewriter == "llm" else by_grammar, named if "joint" in settings.arms else None
    material = articles.gather(documents, settings, compute.seed, rephrase, link)
    material.save(path)
    return material


def _mean(figures: list[dict[str, float]]) -> dict[str, float]:
    return {name: fmean(each[name] for each in figures) for name in figures[0]}


def _code() -> str:
    """Digest of the code that a result depends on: an arm trained by other code is trained again."""
    code = hashlib.md5()
    for room in ("experiments", "k2core", "styles", "benchmarks/calibration"):
        for file in sorted((ROOT / room).rglob("*")):
            if file.suffix in (".py", ".yaml") and file != SIZES:
                code.update(file.read_bytes())
    return code.hexdigest()


if __name__ == "__main__":
    app()
