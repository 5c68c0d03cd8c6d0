"""A small workspace as a chain leaves it: tables by the real stages where no LLM is needed, phases by the loader."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import yaml
from workspace import ROOT

from k2core.corpus.documents import COLUMNS, document_schema
from k2core.corpus.quality.rules import rules_score
from k2core.corpus.workers import Corpus
from k2core.data.rows.loader import PhaseSource
from k2core.data.rows.shards import TokenShards
from k2core.recipe import read_recipe, validate
from k2core.stage import Job
from k2core.storage import read_table, read_tables, write_table
from k2core.synthesis.fidelity.gate import SCORES
from k2core.training.learner import TrainerState
from k2core.training.phases import Extension, Phase
from stages import curate, ingest, tag, tokenize, train_tokenizer

WORDS = ["the", "a", "tall", "old", "river", "city", "tree", "runs", "sleeps", "sings", "under", "over", "near", "and"]
GOOD = {"min_quality_quantile": 0.5, "long_share": 0.0, "long_tokens": 0}
LONG = {"min_quality_quantile": 0.0, "long_share": 0.4, "long_tokens": 60}
PHASES: dict[str, dict[str, Any]] = {
    "stable": {"tokens": 4096, "mixture": {"web": 0.7, "math": 0.3}},
    "decay": {"tokens": 1024, "mixture": {"web": 0.5, "math": 0.5}},
    "anneal": {"tokens": 1024, "mixture": {"web": 0.5, "math": 0.3, "qa": 0.2}, "select": GOOD},
    "long": {"tokens": 2048, "context_length": 64, "mixture": {"web": 1.0}, "select": LONG},
}
EXTENSION = {"tokens": 1024, "context_length": 128, "mixture": {"web": 0.5, "math": 0.5}, "select": LONG}
LEFT_OUT = 2
"""A step that the phase `stable` left out."""


def make(root: Path) -> Path:
    """Fill `root` with `data`, `models` and `dvc.lock`."""
    recipe = read_recipe(ROOT / "recipes" / "micro.yaml")
    sections = _data(root, recipe)
    settings = {"compute": {"threads": 1, "seed": 3}, "optimizer": recipe["optimizer"]}
    common = {"batch_tokens": 256, "context_length": 32, "heldout_context": 32}
    declared: dict[str, dict[str, Any]] = {}
    for name, changes in PHASES.items():
        declared[f"pretrain.{name}"] = {**recipe["pretrain"][name], **common, **changes}
    declared["extend_context"] = {**recipe["extend_context"], **common, **EXTENSION}
    cursor: dict[str, int] = {}
    for key, section in declared.items():
        cls = Extension if key == "extend_context" else Phase
        phase = validate(cls, _without_warmup(section), key)
        declared[key] = phase.model_dump(mode="json")
        source = PhaseSource(
            TokenShards(root / "data/tokens"), weights=phase.mixture, steps=phase.steps,
            batch_rows=256 // phase.context_length, context=phase.context_length, seed=3, cursor=cursor,
            select=phase.select,
        )  # fmt: skip
        cursor = source.cursor
        model = root / "models" / ("base" if key == "extend_context" else key.partition(".")[2])
        model.mkdir(parents=True)
        if key != "extend_context":
            TrainerState(step=0, tokens_seen=0, documents=cursor, lr_scale=1.0).save(model)
        if key == "pretrain.stable":
            left_out = {"step": LEFT_OUT, "reason": "its loss is inf", "samples": source.samples(LEFT_OUT)}
            (model / "skipped.jsonl").write_text(json.dumps(left_out) + "\n")
    _lock(root, sections, {key: {key: section, **settings} for key, section in declared.items()})
    return root


def _without_warmup(section: dict[str, Any]) -> dict[str, Any]:
    return {**section, "schedule": {**section["schedule"], "warmup_steps": 0}}


def _data(root: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """The corpus up to its shards; the sections of its stages."""
    import pyarrow as pa

    data, job = root / "data", Job("lineage", root / "work", None)
    (root / "work").mkdir(parents=True)
    _write_own_data(root / "own")
    files = [
        {"name": name, "kind": "jsonl", "path": str(root / "own" / f"{name}.jsonl"), "domain": domain, "limit": None,
         "license": "CC-BY-4.0", "attribution": "its author", "columns": {"text": "text", "id": "id"}}
        for name, domain in (("pages", "web"), ("sums", "math"))
    ]  # fmt: skip
    off = {**recipe["ingest"], "files": files}
    for name in ("wikipedia", "python", "package_docs", "mathematics"):
        off[name] = {**off[name], "limit": 0}
    sections = {
        "ingest": off,
        "curate": {
            **recipe["curate"],
            "rules": {"web": {"languages": [], "attributes": {"words": {"min": 10}}}},
            "heldout_fraction": 0.15,
            "paragraphs": {"domains": [], "min_characters": 40, "max_share": 0.5},
        },
        "tokenize": {"max_heldout_tokens": 400, "yardstick_bytes": 20_000},
    }
    off["wikipedia"]["translations"] = {}
    ingest.run(ingest.Params.model_validate(off), Corpus(workers=1), data / "documents", job)
    tag.run(tag.Params.model_validate(recipe["tag"]), Corpus(workers=1), data / "documents", data / "attributes", job)
    for name, rows in read_tables(data / "attributes"):
        domain = "web" if name == "pages.parquet" else "math"
        scores = [{"id": row["id"], "rules": rules_score(domain, row), "quality": n / len(rows)}
                  for n, row in enumerate(rows)]  # fmt: skip
        schema = pa.schema([("id", pa.string()), *((part, pa.float64()) for part in
                            ("rules", "classifier", "embedding", "llm", "quality"))])  # fmt: skip
        write_table(data / "quality" / name, scores, schema)
    (data / "tasks").mkdir()
    (data / "tasks" / "tasks.jsonl").write_text("")
    curate.run(
        curate.Params.model_validate(sections["curate"]), Corpus(workers=1), data / "documents", data / "attributes",
        data / "quality",
        data / "tasks", data / "curated", job,
    )  # fmt: skip
    _write_made(data)
    train_tokenizer.run(
        train_tokenizer.Params(vocab_size=320, characters_per_domain=9000), data / "curated", data / "tokenizer", job
    )
    tokenize.run(
        tokenize.Params(**sections["tokenize"]), Corpus(workers=1), data / "curated", data / "rephrased",
        data / "questions", data / "recall", data / "tokenizer", data / "tokens", job,
    )  # fmt: skip
    return sections


def _write_own_data(folder: Path) -> None:
    folder.mkdir()
    random = Random(0)
    pages = [{"id": f"{n}", "text": " ".join([f"Page {n}", *random.choices(WORDS, k=12 + n % 50), f"end of {n}"])}
             for n in range(90)]  # fmt: skip
    pages += [{"id": "copy", "text": pages[7]["text"]}, {"id": "short", "text": "Too few words."}]
    sums = [{"id": f"{n}", "text": f"Problem {n}: {n} + {n * 7} = {n * 8}. So {n * 8} - {n} = {n * 7}."}
            for n in range(60)]  # fmt: skip
    for name, rows in (("pages", pages), ("sums", sums)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_made(data: Path) -> None:
    """Rewrites, questions and recall documents as their stages write them; every second rewrite was rejected."""
    import pyarrow as pa

    every = [row for row in read_table(data / "curated" / "documents.parquet") if row["split"] == "train"]
    train = every[:12]
    rewrites = [{**{name: row[name] for name in COLUMNS}, "id": f"rephrase/plain/1/{row['id']}", "origin": row["id"],
                 "source": "rephrase/plain", "text": f"Said again: {row['text']}"} for row in train]  # fmt: skip
    verdicts = [
        {"source_id": row["origin"], "linked_id": "", "style": "plain", "perspective": "", "gate": "g",
         "source_text": "", "number": 1,
         "rewrite": row["text"], "accepted": n % 2 == 0, "reason": "copied" if n % 2 else "accepted", "copied": 0.95}
        for n, row in enumerate(rewrites)
    ]  # fmt: skip
    first, second = train[0]["id"], next(row["id"] for row in every if row["source"] != train[0]["source"])
    both = {**rewrites[0], "id": f"rephrase/joint/1/{first}", "source": "rephrase/joint", "text": "Question: Both?"}
    verdicts.append({**verdicts[0], "linked_id": second, "style": "joint", "rewrite": both["text"]})
    write_table(data / "rephrased" / "documents.parquet", [*rewrites[::2], both], document_schema())
    names = ("source_id", "linked_id", "style", "perspective", "gate", "source_text", "rewrite", "reason")
    texts = [(name, pa.string()) for name in names]
    scores = [(name, pa.float64()) for name in SCORES]
    write_table(
        data / "rephrased" / "verdicts.parquet", verdicts,
        pa.schema([*texts, ("number", pa.int64()), ("accepted", pa.bool_()), *scores]),
    )  # fmt: skip
    asked = [{**row, "id": f"questions/grammar/{row['origin']}#{n}", "source": "questions/grammar",
              "text": f"Which is number {n}? It is {row['origin']}."} for n, row in enumerate(rewrites)]  # fmt: skip
    write_table(data / "questions" / "documents.parquet", asked[1:], document_schema())
    again = [{**row, "id": f"recall/passage/{row['origin']}#{n}", "source": "recall/passage", "domain": "recall",
              "text": f"{row['text']} {row['text']}"} for n, row in enumerate(rewrites)]  # fmt: skip
    write_table(data / "recall" / "documents.parquet", again, document_schema())
    made = ("maker", "passage", "question", "answer", "reason")
    write_table(
        data / "questions" / "rejected.parquet", [{**asked[0], "maker": "grammar", "reason": "duplicate"}],
        document_schema(*((name, pa.string()) for name in made), ("agreed", pa.int64())),
    )  # fmt: skip


def _lock(root: Path, sections: dict[str, Any], phases: dict[str, Any]) -> None:
    """`dvc.lock` of the chain; a path's digest is its name's."""
    stages: dict[str, Any] = {}

    def add(name: str, deps: list[str], outs: list[str], params: dict[str, Any]) -> None:
        digests = [[{"path": path, "md5": f"{abs(hash(path)):032x}"} for path in paths] for paths in (deps, outs)]
        stages[name] = {"cmd": name, "deps": digests[0], "outs": digests[1], "params": {"params.yaml": params}}

    d = {name: f"data/{name}" for name in (
        "documents", "attributes", "quality", "tasks", "curated", "rephrased", "questions", "recall", "tokenizer",
        "tokens",
        "trajectories")}  # fmt: skip
    add("ingest", ["k2core/stage"], [d["documents"]], {"ingest": sections["ingest"]})
    add("tag", [d["documents"]], [d["attributes"]], {})
    add("grade", [d["documents"], d["attributes"]], [d["quality"]], {})
    add("tasks", [], [d["tasks"]], {})
    add("curate", [d["documents"], d["attributes"], d["quality"], d["tasks"]], [d["curated"]],
        {"curate": sections["curate"]})  # fmt: skip
    add("rephrase", [d["curated"]], [d["rephrased"]], {})
    add("questions", [d["curated"]], [d["questions"]], {})
    add("recall", [d["curated"]], [d["recall"]], {})
    add("train_tokenizer", [d["curated"]], [d["tokenizer"]], {})
    add("tokenize", [d["curated"], d["rephrased"], d["questions"], d["recall"], d["tokenizer"]], [d["tokens"]],
        {"tokenize": sections["tokenize"]})  # fmt: skip
    init = d["tokenizer"]
    for key, params in phases.items():
        name = key.replace(".", "@")
        model = "models/base" if name == "extend_context" else f"models/{name.partition('@')[2]}"
        add(name, [init, d["tokens"]], [model, f"plots/{name}.csv"], params)
        init = model
    add("trajectories", [d["tasks"]], [d["trajectories"]], {})
    add("sft", ["models/base", d["tokenizer"], d["trajectories"]], ["models/sft"], {})
    add("evaluate@base", ["models/base", d["tokens"], d["tasks"]], ["data/evals/base"], {})
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False))
