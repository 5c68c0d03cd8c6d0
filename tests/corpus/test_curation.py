"""Curation and the stages `tag` and `curate`: rules, reasons, funnel, held-out split, contamination, faults named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from k2core.corpus.curation import (
    Bounds,
    DecontaminationConfig,
    Funnel,
    Rejection,
    Rules,
    SamplingStep,
    judge,
    rates,
    split_of,
)
from k2core.corpus.documents import COLUMNS, document_schema
from k2core.corpus.duplicates.dedup import MinhashConfig
from k2core.corpus.duplicates.paragraphs import ParagraphConfig
from k2core.corpus.quality.judge import JudgeConfig
from k2core.corpus.quality.reading import Reading, parts_of
from k2core.corpus.quality.rules import rules_score
from k2core.corpus.steps import tags
from k2core.corpus.tagging import attribute_schema, tag
from k2core.corpus.workers import Corpus, Watch
from k2core.recipe import RecipeError
from k2core.stage import Job, StageError
from k2core.storage import StorageError, read_table, write_lines, write_table
from stages import curate
from stages import tag as tag_stage

ONE = Corpus(workers=1)
MINHASH = MinhashConfig(ngram_words=5, buckets=14, hashes_per_bucket=8, seed=1)
RULES = Rules(languages=["en"], attributes={"words": Bounds(min=5), "stop_words": Bounds(min=1, max=6)})
PARAMS = curate.Params(
    rules={"knowledge": RULES, "code": Rules(languages=[], attributes={"parses": Bounds(min=1)})},
    min_similarity=0.7,
    paragraphs=ParagraphConfig(domains=["knowledge"], min_characters=40, max_share=0.5),
    heldout_fraction=0.3,
    sampling=[SamplingStep(min_quantile=0.5, rate=1.0), SamplingStep(min_quantile=0.0, rate=0.25)],
    translate_from=[],
    decontamination=DecontaminationConfig(item_words=13, heldout_words=30),
)
INSTRUCTION = "Please put two bags of flour and a jar of honey on the list for Saturday, and tell Ada about it."


def document(name: str, text: str, domain: str = "knowledge") -> dict[str, Any]:
    row = dict.fromkeys(COLUMNS, "x")
    return {**row, "id": f"{domain}/{name}", "text": text, "domain": domain}


def sentence(i: int) -> str:
    return f"The town number {i} lies on a river and has {i * 7} houses, {i + 3} mills and a bridge of {i * i} stones."


def corpus() -> list[dict[str, Any]]:
    good = [document(f"good{i}", sentence(i)) for i in range(40)]
    bad = [
        document("short", "The town."),
        document("german", "Die Stadt liegt am Fluss und hat viele Häuser, eine Mühle und eine alte Brücke aus Stein."),
        document("copy", " ".join(sentence(3).split()) + "\n"),
        document("broken", "def f(:", "code"),
        document("whole", "def f(x):\n    return x + 1\n", "code"),
    ]
    return good + bad


def prepared(root: Path, rows: list[dict[str, Any]]) -> tuple[Path, Path, Path]:
    """Documents, attributes and quality; the quality is the rules' score."""
    import pyarrow as pa

    documents, attributes, quality = root / "documents", root / "attributes", root / "quality"
    write_table(documents / "a.parquet", rows, document_schema())
    tags = [tag(row, 500, MINHASH) for row in rows]
    write_table(attributes / "a.parquet", tags, attribute_schema())
    scores = [{"id": row["id"], "quality": rules_score(row["domain"], of)} for row, of in zip(rows, tags, strict=True)]
    write_table(quality / "a.parquet", scores, pa.schema([("id", pa.string()), ("quality", pa.float64())]))
    return documents, attributes, quality


def tasks_in(root: Path) -> Path:
    tasks = [
        {"id": "heldout-00001", "split": "heldout", "instruction": INSTRUCTION, "follow_up": "On Monday."},
        {"id": "train-00001", "split": "train", "instruction": sentence(1), "follow_up": None},
    ]
    (root / "tasks").mkdir(parents=True, exist_ok=True)
    (root / "tasks" / "tasks.jsonl").write_text("".join(json.dumps(task) + "\n" for task in tasks))
    return root / "tasks"


def run(root: Path, rows: list[dict[str, Any]], params: curate.Params = PARAMS) -> tuple[dict[str, float], Path]:
    job = Job("curate", root, None)
    return curate.run(params, ONE, *prepared(root, rows), tasks_in(root), root / "out", job), root / "out"


def test_every_document_is_kept_or_rejected_with_its_reason(tmp_path: Path) -> None:
    figures, out = run(tmp_path, corpus())
    kept, rejected = read_table(out / "documents.parquet"), read_table(out / "rejected.parquet")
    assert sorted(row["id"] for row in kept + rejected) == sorted(row["id"] for row in corpus())
    reasons = {row["id"]: row["reason"] for row in rejected}
    twin = reasons.pop("knowledge/copy", None) or reasons.pop("knowledge/good3")
    assert twin == "exact_duplicate"
    assert reasons == {"knowledge/short": "words", "knowledge/german": "language", "code/broken": "parses"}
    assert figures["documents"] == 45 and figures["kept"] == len(kept) == 41 and figures["rejected/words"] == 1
    assert all(0 <= row["quality"] <= 1 for row in kept)


def test_the_funnel_narrows_to_what_is_kept(tmp_path: Path) -> None:
    figures, out = run(tmp_path, corpus())
    steps = json.loads((out / "funnel.json").read_text())
    assert [step["step"] for step in steps] == [
        "ingested", "language", "parses", "words", "stop_words", "exact_duplicate", "near_duplicate",
        "duplicate_paragraphs", "contaminated",
    ]  # fmt: skip
    counts = [step["documents"] for step in steps]
    assert counts == sorted(counts, reverse=True) and counts[0] == 45 and counts[-1] == figures["kept"]
    assert steps[-1]["characters"] == figures["characters"]


def unruly_corpus() -> list[dict[str, Any]]:
    """A notice is in four documents, one of them hardly more than it; two training documents hold evaluation text."""
    notice = "This text is offered as it stands, and whoever uses it does so at a risk that is all their own."
    rows = corpus()[:40]
    heldout = next(row for row in rows if split_of(row["id"], 0.3) == "heldout")
    names = iter(name for name in map(str, range(100)) if split_of(f"knowledge/{name}", 0.3) == "train")
    planted = [
        *(f"{sentence(i)}\n\n{notice}\n\n{sentence(i + 1)}" for i in (100, 200, 300)),
        f"1 2 3 4 5 6 7 8 9 10 11\n12 13 14 15\n\n{notice}",
        f"{sentence(400)} {INSTRUCTION.replace(',', ' --')}",
        f"{sentence(500)} {heldout['text']} The rest is the same as before, and the end of it was the best.",
    ]
    return rows + [document(name, text) for name, text in zip(names, planted, strict=False)]


def test_repeated_paragraphs_and_evaluation_text_go(tmp_path: Path) -> None:
    figures, out = run(tmp_path, unruly_corpus())
    kept, rejected = (read_table(out / f"{name}.parquet") for name in ("documents", "rejected"))
    assert sum("at a risk that is all" in row["text"] for row in kept) == 1 and figures["paragraphs_cut_from"] == 2
    by_reason = {row["reason"]: [other for other in rejected if other["reason"] == row["reason"]] for row in rejected}
    assert set(by_reason) == {"duplicate_paragraphs", "contaminated"}
    (gone,) = by_reason["duplicate_paragraphs"]
    assert gone["passage"].startswith("This text is offered") and gone["score"] > 0.5
    assert gone["matched"] in {row["id"] for row in kept}
    task, own = sorted(by_reason["contaminated"], key=lambda row: row["matched"], reverse=True)
    assert (task["matched"], task["score"]) == ("tool_call/heldout-00001/instruction", 1.0)
    assert task["passage"].startswith("please put two bags of flour") and task["passage"].endswith("ada about it")
    assert own["matched"].startswith("heldout/knowledge/good") and own["passage"].startswith("the town number")
    assert figures["searched/tool_call"] == 1 and figures["too_short/tool_call"] == 1
    assert figures["searched/heldout"] == figures["heldout"] and figures["rejected/contaminated"] == 2
    steps = json.loads((out / "funnel.json").read_text())
    assert steps[-1]["documents"] == figures["kept"] and steps[-1]["characters"] == figures["characters"]


def test_the_same_bytes_twice(tmp_path: Path) -> None:
    outs = [run(tmp_path / name, unruly_corpus())[1] for name in ("one", "two")]
    for file in ("documents.parquet", "rejected.parquet", "funnel.json"):
        assert (outs[0] / file).read_bytes() == (outs[1] / file).read_bytes()


def test_a_new_source_moves_no_document_between_splits(tmp_path: Path) -> None:
    def splits(rows: list[dict[str, Any]], name: str) -> dict[str, str]:
        return {row["id"]: row["split"] for row in read_table(run(tmp_path / name, rows)[1] / "documents.parquet")}

    small, large = splits(corpus()[:20], "small"), splits(corpus(), "large")
    stay = small.keys() & large.keys()  # one of them may go: a better copy came with the new source
    assert len(stay) >= 19 and all(small[name] == large[name] for name in stay)
    assert set(large.values()) == {"train", "heldout"}


def test_parts_of_a_text_share_its_split() -> None:
    assert {split_of(f"python/m.py#{i}", 0.5) for i in range(20)} == {split_of("python/m.py", 0.5)}
    assert {split_of(f"acme/kb#{i}", 0.5) for i in range(20)} == {"train", "heldout"}, "ids of others are not cut"
    shares = [split_of(f"a/{i}", 0.1) == "heldout" for i in range(2000)]
    assert 0.07 < sum(shares) / 2000 < 0.13


def test_the_first_broken_rule_is_the_reason() -> None:
    attributes = {"id": "a", "language": "en", "language_score": 0.9, "words": 3, "stop_words": 0}
    assert judge(RULES, attributes) == Rejection("words", 3.0)
    assert judge(RULES, {**attributes, "words": 9}) == Rejection("stop_words", 0.0)
    assert judge(RULES, {**attributes, "words": 9, "stop_words": 7}) == Rejection("stop_words", 7.0)
    assert judge(RULES, {**attributes, "words": 9, "stop_words": 2}) is None
    assert judge(RULES, {**attributes, "language": "de"}) == Rejection("language", 0.9)


@pytest.mark.parametrize("name", ["no_such_attribute", "language", "comment_share"])
def test_a_rule_over_nothing_is_named(tmp_path: Path, name: str) -> None:
    rules = Rules(languages=[], attributes={name: Bounds(max=1)})
    params = PARAMS.model_copy(update={"rules": {"knowledge": rules}})
    with pytest.raises(RecipeError, match=f"no number '{name}'.*it has .*stop_words"):
        run(tmp_path, corpus(), params)


def test_rules_that_leave_nothing_fail(tmp_path: Path) -> None:
    rules = Rules(languages=[], attributes={"words": Bounds(min=10_000)})
    with pytest.raises(StageError, match="no document is left for the split train"):
        run(tmp_path, corpus(), PARAMS.model_copy(update={"rules": {"knowledge": rules, "code": rules}}))


def test_missing_columns_and_other_rows_are_named(tmp_path: Path) -> None:
    import pyarrow as pa

    rows = corpus()
    documents, attributes, quality = prepared(tmp_path, rows)
    job = Job("curate", tmp_path, None)
    scores = read_table(quality / "a.parquet")
    write_table(quality / "a.parquet", scores[1:], pa.schema([("id", pa.string()), ("quality", pa.float64())]))
    with pytest.raises(StageError, match=r"quality/a\.parquet: its rows are not those .*run grade again"):
        curate.run(PARAMS, ONE, documents, attributes, quality, tasks_in(tmp_path), tmp_path / "out", job)
    write_table(attributes / "a.parquet", [tag(row, 500, MINHASH) for row in rows[1:]], attribute_schema())
    with pytest.raises(StageError, match=r"a\.parquet: its rows are not those of the documents.*run tag again"):
        curate.run(PARAMS, ONE, documents, attributes, quality, tasks_in(tmp_path), tmp_path / "out", job)
    write_table(
        documents / "a.parquet", [{"id": "a", "text": "b"}], pa.schema([("id", pa.string()), ("text", pa.string())])
    )
    with pytest.raises(StorageError, match=r"no column .*domain"):
        tag_stage.run(tag_stage.Params(language_characters=500, minhash=MINHASH), ONE, documents, tmp_path / "t", job)
    with pytest.raises(StorageError, match=r"tasks\.jsonl: no such file"):
        curate.run(
            PARAMS,
            ONE,
            *prepared(tmp_path / "b", rows),
            tmp_path / "no",
            tmp_path / "out",
            Job("curate", tmp_path / "b", None),
        )
    with pytest.raises(StorageError, match=r"no column .*license"):
        curate.run(PARAMS, ONE, documents, attributes, quality, tasks_in(tmp_path), tmp_path / "out", job)
    with pytest.raises(StageError, match="its tables have no documents; run ingest again"):
        run(tmp_path / "c", [])


SPANISH = [
    "El río nace en las montañas del norte y corre hacia el mar; en sus orillas hay muchas ciudades y los barcos.",
    "La catedral de la ciudad es una de las obras que los arquitectos del siglo XIII dejaron en el valle de la sierra.",
    "La lengua de los pescadores de la costa se habla todavía hoy entre las familias más viejas del puerto, cuyas "
    "abuelas cantan canciones antiguas sobre tormentas, naufragios, sirenas, tesoros perdidos.",
]


def test_foreign_documents_are_kept_apart_for_translation(tmp_path: Path) -> None:
    rows = corpus() + [document(f"es{i}", text) for i, text in enumerate(SPANISH[:2])]
    heldout = next(row for row in rows if split_of(row["id"], 0.3) == "heldout" and row["domain"] == "knowledge")
    rows.append(document("es2", f"{SPANISH[2]} {heldout['text']}"))
    _, without = run(tmp_path / "without", rows)
    reasons = {row["id"]: row["reason"] for row in read_table(without / "rejected.parquet")}
    assert {reasons[f"knowledge/es{i}"] for i in range(3)} == {"language"}
    figures, out = run(tmp_path / "with", rows, PARAMS.model_copy(update={"translate_from": ["es"]}))
    kept = {row["id"]: row for row in read_table(out / "documents.parquet")}
    foreign = {name for name, row in kept.items() if row["split"] == "foreign"}
    # The third holds a held-out text, but is never trained on: its rewrite will be, and goes through the gates again.
    assert foreign == {f"knowledge/es{i}" for i in range(3)} and figures["foreign"] == 3
    assert all(kept[name]["rate"] == 1.0 for name in foreign)
    assert {row["id"]: row["reason"] for row in read_table(out / "rejected.parquet")}["knowledge/german"] == "language"


def test_the_rate_follows_the_quality_within_the_domain(tmp_path: Path) -> None:
    import pyarrow as pa

    documents, attributes, quality = prepared(tmp_path, corpus())
    scores = [{"id": row["id"], "quality": i / 50} for i, row in enumerate(corpus())]
    write_table(quality / "a.parquet", scores, pa.schema([("id", pa.string()), ("quality", pa.float64())]))
    job, out = Job("curate", tmp_path, None), tmp_path / "out"
    figures = curate.run(PARAMS, ONE, documents, attributes, quality, tasks_in(tmp_path), out, job)
    rows = read_table(out / "documents.parquet")
    training = [row for row in rows if row["split"] == "train" and row["domain"] == "knowledge"]
    assert {row["rate"] for row in training} == {1.0, 0.25}
    lowest_full = min(row["quality"] for row in training if row["rate"] == 1.0)
    assert all((row["rate"] == 1.0) == (row["quality"] >= lowest_full) for row in training)
    assert all(row["rate"] == 1.0 for row in rows if row["split"] == "heldout")
    assert 0.25 < figures["mean_rate/knowledge"] < 1


def test_rates_by_quantile() -> None:
    steps = [SamplingStep(min_quantile=low, rate=rate) for low, rate in ((0.0, 0.2), (0.75, 1.0), (0.5, 0.6))]
    rising = np.array([0.1, 0.2, 0.3, 0.4])
    assert rates(rising, rising, steps) == [0.2, 0.2, 0.6, 1.0]
    assert rates(rising[2:], rising, steps) == [0.6, 1.0], "a shard's documents have their places among all"
    equal = np.array([0.5, 0.5, 0.5])
    assert rates(equal, equal, steps) == [0.6, 0.6, 0.6] and rates(equal[:0], equal, steps) == []
    with pytest.raises(ValueError, match="no rate for the poorest documents"):
        curate.Params.model_validate({**PARAMS.model_dump(), "sampling": [{"min_quantile": 0.1, "rate": 1.0}]})


def test_planted_personal_data_goes(tmp_path: Path) -> None:
    leak = document("leak", sentence(77) + " Write to ada.byron@mills.org or bob@mills.org, or call +44 20 7946 0958.")
    rules = RULES.model_copy(update={"attributes": {**RULES.attributes, "pii": Bounds(max=2)}})
    _, out = run(tmp_path, [*corpus(), leak], PARAMS.model_copy(update={"rules": {"knowledge": rules}}))
    gone = next(row for row in read_table(out / "rejected.parquet") if row["id"] == "knowledge/leak")
    assert (gone["reason"], gone["score"]) == ("pii", 3.0)


def test_tag_writes_a_row_a_document(tmp_path: Path) -> None:
    documents, *_ = prepared(tmp_path, corpus())
    params = tag_stage.Params(language_characters=500, minhash=MINHASH)
    figures = tag_stage.run(params, ONE, documents, tmp_path / "tags", Job("tag", tmp_path, None))
    assert [row["id"] for row in read_table(tmp_path / "tags" / "a.parquet")] == [row["id"] for row in corpus()]
    assert figures["documents/a"] == 45 and figures["english_share/a"] > 0.8


def test_a_killed_tag_goes_on_from_the_finished_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables of one source in shards have the rows and the figures of one table."""
    params = tag_stage.Params(language_characters=500, minhash=MINHASH)
    documents, *_ = prepared(tmp_path, corpus())
    expected = tag_stage.run(params, ONE, documents, tmp_path / "whole", Job("tag", tmp_path / "1", None))
    for part in range(3):
        rows = corpus()[15 * part : 15 * part + 15]
        write_table(tmp_path / "parts" / f"a-{part:05}.parquet", rows, document_schema())
    work, seen = tags.tag_or_reason, []

    def counted(row: dict[str, Any], *args: Any) -> Any:
        seen.append(row["id"])
        if len(seen) == 20:
            raise KeyboardInterrupt
        return work(row, *args)

    monkeypatch.setattr(tags, "tag_or_reason", counted)
    job = Job("tag", tmp_path / "3", None)
    with pytest.raises(KeyboardInterrupt):
        tag_stage.run(params, ONE, tmp_path / "parts", tmp_path / "tags", job)
    assert tag_stage.run(params, ONE, tmp_path / "parts", tmp_path / "tags", job) == expected
    assert len(seen) == 20 + 30, "the finished table was tagged again"
    found = [row for part in range(3) for row in read_table(tmp_path / "tags" / f"a-{part:05}.parquet")]
    assert found == read_table(tmp_path / "whole" / "a.parquet")


def test_what_a_signal_failed_on_goes_first_and_says_why(tmp_path: Path) -> None:
    rows = corpus()
    folders = prepared(tmp_path, rows)
    aside = {"id": rows[0]["id"], "reason": "ZeroDivisionError: a share of nothing"}
    write_lines(folders[1] / "a.set_aside.jsonl", [aside])
    out = tmp_path / "out"
    figures = curate.run(PARAMS, ONE, *folders, tasks_in(tmp_path), out, Job("curate", tmp_path, None))
    gone = {row["id"]: row for row in read_table(out / "rejected.parquet")}[aside["id"]]
    assert (gone["reason"], gone["passage"]) == ("untagged", aside["reason"]) and figures["rejected/untagged"] == 1
    steps = json.loads((out / "funnel.json").read_text())
    assert [step["step"] for step in steps[:3]] == ["ingested", "untagged", "language"]
    assert steps[0]["documents"] - steps[1]["documents"] == 1
    judged = JudgeConfig(per_domain=1, probes_per_domain=1, characters=50)
    reading = Reading(*folders[:2], tmp_path / "read", 100, 100, judged, 0)
    with Watch(tmp_path / "watch", "a.parquet") as watch:
        reading("a.parquet", watch)
    lines = [line for of in parts_of(reading.folder, ["a.parquet"]).values() for part in of for line in part.lines]
    assert lines.count("") == 1 and rows[0]["text"]


def test_an_empty_step_leaves_the_funnel_as_it_is() -> None:
    funnel = Funnel(ingested=(2, 5))
    funnel.took("words", 2)
    table = funnel.table(["language", "words"])
    assert [(step["documents"], step["characters"]) for step in table] == [(2, 5), (2, 5), (1, 3)]
