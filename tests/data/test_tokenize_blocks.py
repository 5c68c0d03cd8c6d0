"""`tokenize` block by block: what one pass in memory makes, whatever the blocks; memory does not grow with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from peaks import peak
from workspace import ROOT

from k2core.chat.tokenizer import Tokenizer
from k2core.corpus.documents import COLUMNS, document_schema
from k2core.corpus.workers import Corpus, Watch
from k2core.data.rows.shards import TokenShards
from k2core.evals import compressors
from k2core.machine import Compute
from k2core.recipe import read_recipe
from k2core.stage import Job
from k2core.storage import read_table
from stages import recall, tokenize, train_tokenizer

WORDS = ["the", "a", "tall", "old", "river", "city", "tree", "runs", "sleeps", "sings", "under", "over", "near"]
PARAMS = tokenize.Params(max_heldout_tokens=20_000, yardstick_bytes=3000)
TOKENIZER = train_tokenizer.Params(vocab_size=310, characters_per_domain=5000)
FOLDERS = ("curated", "rephrased", "questions", "recall")
Row = dict[str, Any]


def write(path: Path, rows: list[Row], group: int, *extra: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, document_schema(*extra)), path, row_group_size=group)


def text_of(random: Random, words: int) -> str:
    return " ".join(random.choices(WORDS, k=words)) + "."


def tables(root: Path, documents: int, group: int, words: int = 30) -> Path:
    """The four tables in row groups of `group` documents."""
    random, common = Random(0), dict.fromkeys(COLUMNS, "x") | {"language": "en"}
    curated = []
    for number in range(documents):
        split = ("heldout", "train", "train", "foreign")[number % 4]
        of_it = {"quality": number % 10 / 10, "rate": 0.55 + number % 10 / 20, "split": split}
        domain = "math" if number % 3 == 0 else "web"
        curated.append(
            {
                **common,
                "id": str(number),
                "text": text_of(random, words if number % 20 else 90 * words),
                "domain": domain,
                **of_it,
            }
        )
    made = [{**common, "id": f"made{n}", "text": text_of(random, 20), "domain": "web"} for n in range(documents // 4)]
    extra = [(name, pa.float64()) for name in ("quality", "rate")] + [("split", pa.string())]
    write(root / "curated/documents.parquet", curated, group, *extra)
    origins = [{**row, "origin": str(number) if number else "elsewhere"} for number, row in enumerate(made)]
    write(root / "rephrased/documents.parquet", origins, group)
    write(root / "questions/documents.parquet", made[:7], group)
    write(root / "recall/documents.parquet", [], group)
    return root


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tables(tmp_path_factory.mktemp("tokenizer"), 80, 1000)
    train_tokenizer.run(
        TOKENIZER, root / "curated", root / "tokenizer",
        Job("train_tokenizer", root, None),
    )  # fmt: skip
    return root / "tokenizer"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tokenizer: Path) -> Callable[..., tuple[dict[str, float], dict[str, bytes]]]:
    def yardsticks(heldout: dict[str, list[str]], training: dict[str, list[str]], most: int) -> dict[str, float]:
        """What the compressors are given, in place of what they make of it."""
        first = {f"first/{name}": compressors._first(texts, most) for name, texts in training.items()}
        return {name: float(sum(map(len, texts))) for name, texts in (heldout | first).items()}

    monkeypatch.setattr(compressors, "yardsticks", yardsticks)

    def tokenized(root: Path, corpus: Corpus = Corpus(workers=1)) -> tuple[dict[str, float], dict[str, bytes]]:
        job = Job("tokenize", root / "scratch", None)
        figures = tokenize.run(PARAMS, corpus, *(root / name for name in FOLDERS), tokenizer, root / "out", job)
        files = (file for file in sorted((root / "out").rglob("*")) if file.is_file())
        return figures, {str(file.relative_to(root / "out")): file.read_bytes() for file in files}

    return tokenized


def in_memory(root: Path, tokenizer: Tokenizer) -> dict[tuple[str, str], list[tuple[str, float, float]]]:
    """(split, domain) → text, quality and rate of its documents: one list of all, shuffled."""
    groups: dict[tuple[str, str], list[tuple[str, float, float]]] = {}
    sources = {}
    for row in read_table(root / "curated/documents.parquet"):
        sources[row["id"]] = row["quality"], row["rate"]
        if row["split"] != "foreign":
            of_split = groups.setdefault((row["split"], row["domain"]), [])
            of_split.append((row["text"], row["quality"], row["rate"]))
    for row in read_table(root / "rephrased/documents.parquet"):
        groups["train", row["domain"]].append((row["text"], *sources.get(row["origin"], (1.0, 1.0))))
    groups["train", "qa"] = [(row["text"], 1.0, 1.0) for row in read_table(root / "questions/documents.parquet")]
    for (split, domain), rows in groups.items():
        Random(f"tokenize/{split}/{domain}").shuffle(rows)
        if split == "heldout":
            left, fitting = PARAMS.max_heldout_tokens, []
            for row in rows:
                length = len(tokenizer.encode(row[0])) + 1
                if length <= left:
                    fitting.append(row)
                    left -= length
            groups[split, domain] = fitting
    return groups


def test_blocks_change_nothing_and_give_what_one_pass_in_memory_gives(
    tmp_path: Path, run: Any, tokenizer: Path
) -> None:
    whole = run(tables(tmp_path / "1", 200, 1000))
    assert whole == run(tables(tmp_path / "17", 200, 17)) == run(tables(tmp_path / "two", 200, 1000), Corpus(workers=2))
    tok, shards = Tokenizer.load(tokenizer), TokenShards(tmp_path / "1" / "out")
    wanted = in_memory(tmp_path / "1", tok)
    assert {(split, domain) for split in ("train", "heldout") for domain in shards.domains(split)} == set(wanted)
    for (split, domain), rows in wanted.items():
        ids = [token for text, *_ in rows for token in [*tok.encode(text), tok.eos_id]]
        assert shards.tokens(split, domain).tolist() == ids
        ends = np.flatnonzero(shards.tokens(split, domain) == tok.eos_id) + 1
        assert shards.document_ends(split, domain).tolist() == ends.tolist()
        assert shards.document_bytes(split, domain).tolist() == [len(text.encode()) for text, *_ in rows]
        columns = shards.document_quality(split, domain), shards.document_rates(split, domain)
        for place, values in enumerate(columns, 1):
            assert values.tolist() == np.array([row[place] for row in rows], np.float32).tolist()


def test_the_tokenizer_and_recall_are_the_same_for_any_blocks(tmp_path: Path) -> None:
    found = []
    for group in (1000, 17):
        root = tables(tmp_path / str(group), 200, group)
        job, amount = Job("made", root, None), recall.Amount(documents=5, characters=200)
        figures = train_tokenizer.run(TOKENIZER, root / "curated", root / "tokenizer", job)
        params, compute = (
            recall.Params(kinds={"passage": amount}),
            read_recipe(ROOT / "recipes" / "laptop.yaml")["compute"],
        )
        figures |= recall.run(params, Compute(**compute), root / "curated", root / "recalled", job)
        files = [*(root / "tokenizer").iterdir(), *(root / "recalled").iterdir()]
        found.append((figures, {file.name: file.read_bytes() for file in files}))
    assert found[0] == found[1] and found[0][0]["documents"] == 5


def test_a_document_that_kills_has_the_tokens_of_an_empty_text(tmp_path: Path, run: Any) -> None:
    root = tables(tmp_path, 40, 10)
    for _ in range(2):
        with Watch(root / "scratch" / "workers", "curated-00000") as watch:
            watch.at("1")  # a training document of web
        watch.died()
    figures, _ = run(root)
    assert figures["documents/set_aside"] == 1
    shards = TokenShards(root / "out")
    assert shards.document_bytes("train", "web").tolist().count(0) == 1
    lengths = np.diff(shards.document_ends("train", "web"), prepend=0)
    assert lengths.tolist().count(1) == 1 and lengths.min() == 1


def test_memory_is_that_of_a_block(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times as many blocks of 25 documents of 3 to 300 kB: the texts that are new are not in memory."""
    monkeypatch.setattr("k2core.data.rows.encoding._GATHERED", 25)
    few, many = (tables(tmp_path / str(count), count, 25, words=600) for count in (25, 100))
    run(few)  # what is loaded once
    (few / "scratch/encoded").rename(few / "scratch/done")
    less, more = peak(lambda: run(few)), peak(lambda: run(many))
    size = sum(len(row["text"]) for row in read_table(many / "curated/documents.parquet"))
    assert more - less < size / 2
