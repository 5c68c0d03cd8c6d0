"""The Table 1 experiment: its statistics and scores, what an arm sees, and the command at a toy size."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from experiments import arms, llm_rewriter, scoring, statistics, table1
from experiments.articles import Article, Item, Material, gather
from experiments.settings import Settings, load_settings
from k2core.chat.tokenizer import Tokenizer
from k2core.corpus.documents import COLUMNS, document_schema
from k2core.model.config import ModelConfig
from k2core.model.files import save_model
from k2core.model.transformer import Transformer
from k2core.optim.kinds.muonclip import MuonClipConfig
from k2core.optim.muonclip import MuonClip
from k2core.recipe import RecipeError, load_section, read_recipe
from k2core.stage import Job, StageError
from k2core.storage import write_table
from k2core.synthesis.fidelity import facts
from k2core.synthesis.rephrasing.rewriting import Rewrite
from k2core.synthesis.rephrasing.styles import load_styles
from k2core.training.learner import TrainerState
from k2core.training.optimizer_state import save_optimizer

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "micro.yaml"
TOY = {
    "articles": 6, "characters": [60, 400], "least_questions": 2, "versions": 10, "epochs": 2, "form_share": 0.2,
    "arms": ["raw", "one_rephrasing", "all_rephrasings", "faq"],
    "seeds": [1], "batch_tokens": 256, "context_length": 256, "lr": 0.5, "warmup_steps": 1,
    "choices": 3, "resamples": 200, "heldout_documents": 3, "llm_attempts": 0, "llm_temperature": 0.0,
}  # fmt: skip
ARMS = ("base", "raw", "one_rephrasing", "all_rephrasings")
TOWNS = ["Velm", "Norden", "Sarn", "Kell", "Tarn", "Brask", "Ulm", "Dorn", "Hest", "Wark", "Lomm", "Pell"]


def documents() -> list[dict[str, Any]]:
    base = dict.fromkeys(COLUMNS, "x")
    return [
        {
            **base, "id": f"wikipedia/{town}", "domain": "knowledge", "source": "wikipedia",
            "attribution": f'"{town}", Wikipedia contributors', "split": "heldout" if number > 9 else "train",
            "text": f"{town} is a town in {town[::-1].title()}land. It was founded in {1300 + 7 * number} by "
                    f"Duke {town}mund. It has a population of {2000 + 31 * number}.",
        }
        for number, town in enumerate(TOWNS)
    ]  # fmt: skip


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace with an untrained base of the micro recipe's shape."""
    folder = tmp_path / "workspace"
    write_table(folder / "data/curated/documents.parquet", documents(), document_schema(("split", "string")))
    tokenizer = Tokenizer.train([" ".join(f"{a}{b}" for a in TOWNS for b in range(2000, 2400))], 300)
    tokenizer.save(folder / "data/tokenizer")
    recipe = read_recipe(RECIPE)
    recipe["model"]["vocab_size"], recipe["compute"]["threads"] = 300, 1
    (folder / "params.yaml").write_text(yaml.safe_dump(recipe))
    torch.manual_seed(1)
    model = Transformer(load_section(ModelConfig, folder / "params.yaml", "model"))
    base = folder / "models/long"
    save_model(model, base)
    save_optimizer(MuonClip(model, load_section(MuonClipConfig, folder / "params.yaml", "optimizer")), base)
    TrainerState.fresh().save(base)
    return folder


def measure(workspace: Path, tmp_path: Path) -> dict[str, Any]:
    page, results = tmp_path / "table1.md", tmp_path / "table1.json"
    page.write_text("above\n<!-- table1:begin -->\n<!-- table1:end -->\nbelow\n")
    (tmp_path / "sizes.yaml").write_text(yaml.safe_dump({"grammar": TOY}))
    words = ["grammar", "--workspace", workspace, "--sizes", tmp_path / "sizes.yaml", "--work", tmp_path / "work"]
    done = CliRunner().invoke(table1.app, [*map(str, words), "--results", str(results), "--page", str(page)])
    assert done.exit_code == 0, (done.output, done.exception)
    assert page.read_text().startswith("above\n") and "| 10 rephrasings × 1 epoch | " in page.read_text()
    assert (tmp_path / "table1.svg").stat().st_size > 1000
    return json.loads(results.read_text())["grammar"]


def test_the_command_trains_each_arm_once(workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measure(workspace, tmp_path)
    assert list(first["arms"]) == ["base", *TOY["arms"]]
    trained = [first["arms"][arm] for arm in TOY["arms"]]
    assert len({figures["train/steps"] for figures in trained}) == 1
    for figures in trained:
        assert 0 < figures["mixture/tokens/articles"] <= figures["train/steps"] * TOY["batch_tokens"] * 0.85
    assert first["arms"]["raw"]["mixture/epochs/articles"] == pytest.approx(TOY["epochs"], rel=0.4)
    assert first["material"]["questions_in_training_text"] == 0
    for score in first["accuracy"].values():
        assert score["low"] <= score["value"] <= score["high"]

    again = []
    run = arms.Trainer.run

    def counted(self: Any, material: Any, arm: str, seed: int) -> dict[str, Any]:
        again.append((arm, seed))
        return run(self, material, arm, seed)

    monkeypatch.setattr(arms.Trainer, "run", counted)
    next((tmp_path / "work").glob("grammar-*/raw-1.json")).unlink()  # as if the machine had gone down there
    assert {**measure(workspace, tmp_path), "training_seconds": 0} == {**first, "training_seconds": 0}
    assert again == [("raw", 1)]


def test_what_is_learnt_is_asked_and_nothing_else_is_learnt() -> None:
    settings = Settings(**TOY)
    material = gather(documents(), settings, 1, lambda pairs: [[text] * 10 for _, text in pairs])
    texts = " ".join(article.text for article in material.articles)
    assert len(material.articles) == 6 and len(material.heldout) == 2
    for article in material.articles:
        for item in article.items:
            assert item.choices[0] in article.text and len(set(item.choices)) == settings.choices
            assert not any(choice in article.text for choice in item.choices[1:])
            assert all(choice in texts for choice in item.choices)
    learnt = {article.id.removeprefix("wikipedia/") for article in material.articles}
    assert material.form and not any(town in text for town in learnt for text in material.form)


def test_articles_that_cannot_be_rephrased_are_passed_over_or_named() -> None:
    settings = Settings(**{**TOY, "articles": 3, "choices": 2})
    some = gather(documents(), settings, 1, lambda pairs: [None if t == "Velm" else [x] for t, x in pairs])
    assert all(article.id != "wikipedia/Velm" for article in some.articles)
    with pytest.raises(StageError, match="0 articles of 60 to 400 characters"):
        gather(documents(), settings, 1, lambda pairs: [None for _ in pairs])


def test_one_rephrasing_sees_every_version_equally_often() -> None:
    versions = tuple(f"v{number}" for number in range(10))
    material = Material(tuple(Article(str(n), "It", "source", versions, 0, ()) for n in range(20)), (), ())
    assert arms.arm_texts(material, "raw", 1) == ["source"] * 20
    assert sorted(arms.arm_texts(material, "one_rephrasing", 1)) == sorted(versions * 2)
    assert arms.arm_texts(material, "one_rephrasing", 1) != arms.arm_texts(material, "one_rephrasing", 2)
    assert sorted(arms.arm_texts(material, "all_rephrasings", 1)) == sorted(versions * 20)


@pytest.mark.parametrize("name", ["faq", "table", "tutorial"])
def test_the_arm_of_a_format_says_what_all_rephrasings_say(name: str) -> None:
    versions = ("Ulm is a town. It was founded in 1307.", "Ulm? A town. It has 2,031 people | more. In 1307 it began.")
    material = Material((Article("wikipedia/Ulm", "Ulm", "source", versions, 0, ()),), (), ())
    style = load_styles(ROOT / "styles").styles[name]
    put = arms.arm_texts(material, name, 1)
    assert len(set(put)) == len(put) == len(versions)
    for version, text in zip(arms.arm_texts(material, "all_rephrasings", 1), put, strict=True):
        assert facts.words(style.bare(text)) == facts.words(version) != facts.words(text)


def test_the_arm_of_joint_questions_says_all_of_an_article_and_something_of_the_one_it_names() -> None:
    settings = Settings(**{**TOY, "articles": 3, "choices": 2})
    link = {"Velm": ("Kell", "Kell has a harbour. It is old."), "Sarn": ("Ulm", "A town.")}
    named = [row for row in documents() if row["id"].removeprefix("wikipedia/") in link] + documents()[4:]
    material = gather(
        named, Settings(**{**settings.model_dump(), "articles": 2}), 1, lambda pairs: [[text] for _, text in pairs],
        lambda row: link.get(row["id"].removeprefix("wikipedia/")),
    )  # fmt: skip
    assert {article.title: article.linked for article in material.articles} == link
    for article, text in zip(material.articles, arms.arm_texts(material, "joint", 1), strict=True):
        said = " ".join(line.removeprefix("Answer: ") for line in text.splitlines() if line.startswith("Answer: "))
        other = facts.sentences(article.linked[1])
        assert sorted(facts.sentences(said)) == sorted([*facts.sentences(article.text), *other])
        assert text.count("Question: ") == len(other) and f"{article.title} and {article.linked[0]}" in text


def test_scores_are_a_token_and_bits_of_the_whole_answer() -> None:
    codes = {"q": [5, 6], " a": [1], " bb": [2, 2], " c": [3]}
    tokenizer = SimpleNamespace(eos_id=0, encode=codes.__getitem__)
    chances = torch.tensor([0.05, 0.2, 0.5, 0.1, 0.05, 0.05, 0.05])  # the same after every prefix

    def model(tokens_BT: torch.Tensor) -> torch.Tensor:
        return chances.log().expand(*tokens_BT.shape, 7)

    items = [Item("q", "name", (right, *wrong)) for right, *wrong in ((" bb", " a"), (" a", " bb"), (" a", " c"))]
    stripped = [Item(item.question, item.kind, tuple(choice[1:] for choice in item.choices)) for item in items]
    correct, bits = scoring.score(model, tokenizer, stripped)
    assert correct == [True, False, True]  # as a whole " bb" (0.25) is hardly likelier than " a", a token it is
    assert bits == pytest.approx([2.0, -math.log2(0.2), -math.log2(0.2)], rel=1e-5)
    assert scoring.score(model, tokenizer, [Item("q", "name", ("a", "a"))])[0] == [False]


def results(effect: float, clustered: bool) -> list[dict[str, Any]]:
    """Four questions on each of 60 articles; `clustered`: those of an article are all right or all wrong."""
    random = torch.Generator().manual_seed(1)
    luck_AQ = torch.rand(60, 1 if clustered else 4, generator=random).expand(60, 4)
    rows = []
    for arm in ARMS:
        level = 0.3 + effect * (arm == "all_rephrasings")
        correct = (luck_AQ < level).flatten().tolist()
        rows += [{"arm": arm, "correct": correct, "bits": [8.0 - c for c in correct]}] * (1 if arm == "base" else 3)
    return rows


def test_differences_are_paired_and_articles_are_the_unit() -> None:
    groups = [number for number in range(60) for _ in range(4)]
    found = statistics.summarise(results(0.15, clustered=True), groups, 2000, 1)
    loose = statistics.summarise(results(0.15, clustered=False), groups, 2000, 1)
    equal = found["accuracy"]["one_rephrasing - raw"]
    assert (equal["value"], equal["low"], equal["high"]) == (0, 0, 0)
    for name in ("all_rephrasings - raw", "all_rephrasings - one_rephrasing"):
        assert found["accuracy"][name]["low"] > 0 and found["bits"][name]["high"] < 0
    width = {
        kind: s["accuracy"]["raw"]["high"] - s["accuracy"]["raw"]["low"] for kind, s in (("c", found), ("l", loose))
    }
    assert width["c"] > 1.5 * width["l"]
    assert width["l"] == pytest.approx(2 * 1.96 * math.sqrt(0.3 * 0.7 / 240), rel=0.25)


def test_trainings_that_disagree_widen_the_interval() -> None:
    groups = list(range(100))
    steady = [{"arm": arm, "correct": [n % 2 for n in groups], "bits": [1.0] * 100} for arm in ARMS]
    torn = [{"arm": "raw", "correct": [value] * 100, "bits": [1.0] * 100} for value in (0, 0, 1, 1)]
    found = statistics.summarise([*torn, *(row for row in steady if row["arm"] != "raw")], groups, 1000, 1)["accuracy"]
    assert found["raw"]["value"] == found["one_rephrasing"]["value"] == 0.5
    assert found["raw"]["high"] - found["raw"]["low"] > 0.4 > found["base"]["high"] - found["base"]["low"]


def test_rewrites_are_asked_for_until_enough_pass_and_sources_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def rewrite_all(model: Any, jobs: Any, library: Any, *, temperature: float, seed: int, context_tokens: int) -> Any:
        asked.append([f"{job.text}/{job.style}" for job in jobs])
        return [Rewrite(job, [f"{job.text} {job.number - 1}"], 1, truncated=job.number == 2) for job in jobs]

    def judge(source: str, rewrite: str, limits: Any, common: Any) -> Any:
        return SimpleNamespace(accepted=source == "good" or rewrite.endswith("0"))

    monkeypatch.setattr(llm_rewriter, "rewrite_all", rewrite_all)
    monkeypatch.setattr(llm_rewriter, "judge", judge)
    settings = Settings(**{**TOY, "versions": 3, "llm_attempts": 5})
    params = load_section(llm_rewriter.Params, RECIPE, "rephrase")
    made = llm_rewriter.collect(
        None,
        ["good", "poor"],
        settings,
        params,
        load_styles(ROOT / "styles"),
        frozenset(),
        Job("test", Path("x"), None),
    )
    assert made == [["good 0", "good 2", "good 3"], ["poor 0", "poor", "poor"]]
    assert [len(jobs) for jobs in asked] == [2, 2, 2, 2, 1]
    assert asked[0][0] != asked[1][0]  # another style


def test_sizes_are_checked() -> None:
    for rewriter in table1.REWRITERS:
        assert load_settings(rewriter).versions == 10
    with pytest.raises(ValueError, match="llm_attempts 3 cannot give versions 10"):
        Settings(**{**TOY, "llm_attempts": 3})
    with pytest.raises(RecipeError, match="no key grammar"):
        load_settings("grammar", RECIPE)


def test_a_missing_workspace_ends_in_one_sentence(tmp_path: Path) -> None:
    done = CliRunner().invoke(table1.app, ["grammar", "--workspace", str(tmp_path)])
    assert done.exit_code == 1 and done.output.startswith("table1: ") and "no such file" in done.output
