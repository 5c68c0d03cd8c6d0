"""The four stages from documents to a model with a longer context, in a few seconds, by their `run` functions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random

import numpy as np
import pytest
import yaml
from processes import sharing
from test_trainer import MODEL, OPTIMIZER

from k2core.chat.tokenizer import Tokenizer
from k2core.corpus.documents import COLUMNS, document_schema
from k2core.corpus.workers import Corpus
from k2core.data.mixture.selection import EVERYTHING, Select
from k2core.data.rows.shards import TokenizedDocument, TokenShards, write_shards
from k2core.evals.compressors import xz
from k2core.machine import Compute
from k2core.model.config import YarnConfig
from k2core.model.files import load_model
from k2core.report.curves import collect
from k2core.report.results import read_curves
from k2core.stage import Job, StageError
from k2core.storage import dvc_md5, read_table, write_table
from k2core.training.checkpoint import CheckpointConfig
from k2core.training.learner import TrainerState
from k2core.training.phases import Extension, Phase
from k2core.training.spikes import SpikeConfig
from stages import extend_context, plan_mixture, pretrain, tokenize, train_tokenizer

COMPUTE = Compute(threads=1, seed=3, device="cpu", backend="auto", precision="fp32")
MODEL = MODEL.model_copy(update={"vocab_size": 320})
PARALLEL = sharing(1, micro_batch_tokens=100_000)
SPIKES = SpikeConfig(window=32, min_history=16, deviations=6.0, max_in_a_row=3)
CHECKPOINT = CheckpointConfig(keep=2, permanent_every=0, mirror="", resume_from="", accept=[])
SCHEDULES = {
    "stable": {"kind": "constant", "lr_start": 1.0, "lr_end": 1.0, "warmup_steps": 3},
    "decay": {"kind": "cosine", "lr_start": 1.0, "lr_end": 0.1, "warmup_steps": 0},
    "extend": {"kind": "constant", "lr_start": 0.1, "lr_end": 0.1, "warmup_steps": 0},
}


def phase(name: str, **changes) -> dict:
    values = {
        "tokens": 8192, "batch_tokens": 256, "context_length": 32, "mixture": {"web": 0.75, "math": 0.25},
        "select": EVERYTHING, "log_every": 4, "checkpoint_every": 10, "heldout_every": 8, "heldout_context": 32,
        "schedule": SCHEDULES[name],
    }  # fmt: skip
    return {**values, **changes}


MIXTURE_WITH_QUESTIONS = {"web": 0.65, "math": 0.3, "qa": 0.05}
GOOD = Select(min_quality_quantile=0.5, long_share=0, long_tokens=0)


class Chain:
    """The stages' outputs in one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "scratch").mkdir()

    def job(self, name: str) -> Job:
        (self.root / "scratch" / name).mkdir(exist_ok=True)
        return Job(name, self.root / "scratch" / name, None)

    def pretrain(self, name: str, init: str, model=MODEL, out: str | None = None, **changes) -> dict[str, float]:
        self.last = self.job(out or name)
        return pretrain.run(
            Phase(**phase(name, **changes)), model, OPTIMIZER, COMPUTE, PARALLEL, SPIKES, CHECKPOINT, name,
            self.root / init, self.root / "tokens", self.root / (out or name), self.root / f"{out or name}.csv",
            self.last,
        )  # fmt: skip


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    root, random = tmp_path_factory.mktemp("chain"), Random(0)
    words = ["the", "a", "tall", "old", "river", "city", "tree", "runs", "sleeps", "sings", "under", "over", "near"]
    rows = []
    for number in range(240):
        math = number % 4 == 0
        a, b = random.randrange(100), random.randrange(100)
        text = f"{a} + {b} = {a + b}. " * 3 if math else " ".join(random.choices(words, k=40)) + "."
        domain, split = "math" if math else "web", "heldout" if number % 12 in (0, 1) else "train"
        common = dict.fromkeys(("source", "license", "origin", "attribution", "language", "date"), "x")
        score = {"quality": number % 10 / 10, "rate": 0.55 + number % 10 / 20}
        rows.append({"id": str(number), "text": text, "domain": domain, "split": split, **score, **common})
    import pyarrow as pa

    extra = ("split", pa.string()), ("quality", pa.float64()), ("rate", pa.float64())
    write_table(root / "curated" / "documents.parquet", rows, document_schema(*extra))
    plain = [{name: row[name] for name in COLUMNS} for row in rows if row["split"] == "train"]
    rephrased = [{**row, "text": row["text"].upper(), "origin": row["id"]} for row in plain[1:10:2]]
    rephrased[0]["origin"] = "elsewhere"
    write_table(root / "rephrased" / "documents.parquet", rephrased, document_schema())
    questions = [{**row, "text": f"{row['id']}? {row['domain']}"} for row in plain[:30]]
    write_table(root / "questions" / "documents.parquet", questions, document_schema())
    recall = [{**row, "text": f"{row['text']} {row['text']}"} for row in plain[:20]]
    write_table(root / "recall" / "documents.parquet", recall, document_schema())
    made = Chain(root)
    train_tokenizer.run(
        train_tokenizer.Params(vocab_size=320, characters_per_domain=9000), root / "curated", root / "tokenizer",
        made.job("train_tokenizer"),
    )  # fmt: skip
    figures = tokenize.run(
        tokenize.Params(max_heldout_tokens=600, yardstick_bytes=20_000), Corpus(workers=1), root / "curated",
        root / "rephrased", root / "questions", root / "recall", root / "tokenizer", root / "tokens",
        made.job("tokenize"),
    )  # fmt: skip
    assert figures["documents/rephrased"] == len(rephrased) == 5
    assert figures["documents/train/web"] + figures["documents/train/math"] == 200 + len(rephrased)
    assert figures["documents/questions"] == figures["documents/train/qa"] == 30
    assert figures["documents/recall"] == figures["documents/train/recall"] == 20
    made.tokenized = figures
    return made


def test_shards_carry_quality_and_rate_and_rewrites_have_their_sources(chain: Chain) -> None:
    shards, tokenizer = TokenShards(chain.root / "tokens"), Tokenizer.load(chain.root / "tokenizer")
    names = ["id", "text", "domain", "split", "quality", "rate"]
    rows = read_table(chain.root / "curated" / "documents.parquet", names)
    scores = {row["id"]: (row["quality"], row["rate"]) for row in rows}
    rewrites = read_table(chain.root / "rephrased" / "documents.parquet", ["text", "domain", "origin"])
    assert [row["origin"] in scores for row in rewrites] == [False, True, True, True, True]
    for domain in ("web", "math"):
        wanted = [
            (row["text"], *scores[row["id"]]) for row in rows if (row["split"], row["domain"]) == ("train", domain)
        ]
        wanted += [(row["text"], *scores.get(row["origin"], (1, 1))) for row in rewrites if row["domain"] == domain]
        ends, tokens = shards.document_ends("train", domain), shards.tokens("train", domain)
        texts = [tokenizer.decode(ids[:-1].tolist()) for ids in np.split(tokens, ends[:-1])]
        quality, rates = shards.document_quality("train", domain), shards.document_rates("train", domain)
        found = sorted(zip(texts, quality.tolist(), rates.tolist(), strict=True))
        assert [row[0] for row in found] == [row[0] for row in sorted(wanted)]
        assert [row[1:] for row in found] == [pytest.approx(row[1:], abs=1e-3) for row in sorted(wanted)]
    assert sorted(shards.domains("train")) == ["math", "qa", "recall", "web"] and shards.domains("heldout") == [
        "math",
        "web",
    ]
    assert set(shards.document_rates("train", "qa")) == {1.0}


def test_the_yardsticks_are_of_the_text_that_bits_per_byte_are_measured_on(chain: Chain) -> None:
    shards, tokenizer = TokenShards(chain.root / "tokens"), Tokenizer.load(chain.root / "tokenizer")
    for domain in shards.domains("heldout"):
        ends, tokens = shards.document_ends("heldout", domain), shards.tokens("heldout", domain)
        texts = [tokenizer.decode(ids[:-1].tolist()).encode() for ids in np.split(tokens, ends[:-1])]
        assert sum(map(len, texts)) == shards.document_bytes("heldout", domain).sum()
        bits = 8 * xz(texts, ()) / sum(map(len, texts))
        assert chain.tokenized[f"yardstick/xz/{domain}"] == pytest.approx(bits)
    kept = chain.tokenized["documents/heldout/web"] + chain.tokenized["documents/heldout/math"]
    assert kept < 40, "the limit has left some out"


def test_phases_chain_and_learn(chain: Chain) -> None:
    stable = chain.pretrain("stable", "tokenizer")
    assert stable["heldout/bits_per_byte"] < stable["heldout/bits_per_byte_before"] - 1
    for name in ("attention.csv", "experts.csv"):
        assert (chain.root / "stable" / name).read_text().startswith("step,layer,")
    choice = {"mixture": MIXTURE_WITH_QUESTIONS, "select": GOOD}
    decay = chain.pretrain("decay", "stable", **choice)
    assert decay["heldout/bits_per_byte"] < stable["heldout/bits_per_byte"]
    state = TrainerState.load(chain.root / "decay")
    assert state.step == 64 and state.tokens_seen == decay["train/tokens_seen"] > stable["train/tokens_seen"]
    assert not any(name.startswith("heldout/") and name.endswith("/qa") for name in decay), "nothing of it is held out"
    phases = {
        "stable": Phase(**phase("stable")), "decay": Phase(**phase("decay", **choice)),
        "anneal": Phase(**phase("extend")), "long": Phase(**phase("extend")),
    }  # fmt: skip
    yarn = {"factor": 4, "beta_fast": 1, "beta_slow": 1, "mscale": 1, "mscale_all_dim": 1}
    extension = Extension(
        **phase("extend"), rope_scaling={**yarn, "original_max_position_embeddings": 32}, control=False, lengths=[96],
        retrieval_samples=1, copy_samples=1,
    )  # fmt: skip
    planned = plan_mixture.run(
        plan_mixture.Params(max_epochs=4.0), plan_mixture.Pretrain.for_value(phases)(**phases), extension,
        chain.root / "tokens", chain.root / "mixture", chain.job("plan_mixture"),
    )  # fmt: skip
    for name, figures in (("stable", stable), ("decay", decay)):
        for domain in phases[name].mixture:
            tokens, epochs = figures[f"mixture/tokens/{domain}"], figures[f"mixture/epochs/{domain}"]
            assert tokens == pytest.approx(planned[f"{name}/tokens/{domain}"], rel=0.05, abs=64)
            assert epochs == pytest.approx(planned[f"{name}/epochs_after/{domain}"], rel=0.15)
    written = yaml.safe_load((chain.root / "mixture" / "manifest.yaml").read_text())
    assert list(written["phases"]) == sorted(written["phases"]) and planned["warnings"] == len(written["warnings"])
    assert json.loads((chain.root / "tokens" / "manifest.json").read_text())["vocab_size"] == 320

    (chain.root / "plots").mkdir()
    for name in ("stable", "decay"):
        shutil.copyfile(chain.root / f"{name}.csv", chain.root / "plots" / f"pretrain-{name}.csv")
    figures = {"tokenize": chain.tokenized, "pretrain-stable": stable, "pretrain-decay": decay}
    curves = collect(read_curves(chain.root / "plots"), figures)
    seen, bits = curves.points["math"]["decay"][-1]
    assert seen == pytest.approx(decay["train/tokens_seen"] / 1e6)
    assert bits == pytest.approx(decay["heldout/bits_per_byte/math"], rel=1e-4)
    assert len(curves.points["all"]["stable"]) == 1 + 4, "untrained, and heldout_every 8 of 32 steps"
    assert len(curves.yardsticks["all"]) == 3


def test_the_same_inputs_give_the_same_bytes(chain: Chain) -> None:
    chain.pretrain("stable", "tokenizer", out="again")
    assert dvc_md5(chain.root / "again") == dvc_md5(chain.root / "stable")
    assert dvc_md5(chain.root / "again.csv") == dvc_md5(chain.root / "stable.csv")


def test_seams_are_checked(chain: Chain) -> None:
    with pytest.raises(StageError, match="differs in shape from section model"):
        chain.pretrain("decay", "stable", model=MODEL.model_copy(update={"rope_theta": 5e4}), out="bad")
    with pytest.raises(StageError, match="vocabulary of 320, section model says vocab_size 300"):
        chain.pretrain("stable", "tokenizer", model=MODEL.model_copy(update={"vocab_size": 300}), out="bad")
    with pytest.raises(StageError, match="ended at lr multiplier 1"):
        chain.pretrain("extend", "stable", out="bad")


def test_context_is_extended_and_measured(chain: Chain) -> None:
    yarn = YarnConfig(
        factor=4, beta_fast=1, beta_slow=1, mscale=1, mscale_all_dim=1, original_max_position_embeddings=32
    )
    values = phase("extend", context_length=128, tokens=1024)
    random, eos = Random(0), TokenShards(chain.root / "tokens").eos_id
    long = [
        TokenizedDocument(split, domain, random.choices(range(eos), k=300), 300)
        for split in ("train", "heldout") for domain in ("web", "math") for _ in range(3 if split == "heldout" else 12)
    ]  # fmt: skip
    write_shards(chain.root / "long", long, vocab_size=320, eos_id=eos)

    def extend(out: str, **changes) -> dict[str, float]:
        settings = {"control": True, "lengths": [96, 128], "retrieval_samples": 2, "copy_samples": 3, **changes}
        return extend_context.run(
            Extension(**{**values, **settings}, rope_scaling=yarn), OPTIMIZER, COMPUTE,
            PARALLEL, SPIKES, CHECKPOINT, chain.root / "decay", chain.root / "long", chain.root / out,
            chain.root / f"{out}.csv", chain.job(out),
        )  # fmt: skip

    with pytest.raises(StageError, match="make them equal"):
        extend("bad", context_length=32)
    figures = extend("base")
    model = load_model(chain.root / "base")
    assert model.config.rope_scaling == yarn and model.config.max_position_embeddings == 128
    assert sorted(file.name for file in (chain.root / "base").iterdir()) == [
        "attention.csv", "config.json", "experts.csv", "model.safetensors",
    ]  # fmt: skip
    assert figures["heldout/bits_per_byte"] == figures["after/bits_per_byte_short"] > 0
    assert figures["samples/windows"] == 12 and "after_over_without_yarn/nats_saved/position_64-128" in figures
    for name in ("bits_per_byte_long", "nats_per_token/position_64-128", "needle/length_128/depth_50",
                 "copy_gain/distance_64/low"):  # fmt: skip
        assert all(f"{when}/{name}" in figures for when in ("before", "yarn", "after", "without_yarn"))
    # the control is another model, and it neither changes the extended one nor its figures
    assert figures["without_yarn/bits_per_byte_long"] != figures["after/bits_per_byte_long"]
    alone = extend("alone", control=False)
    assert alone == {name: value for name, value in figures.items() if "without_yarn/" not in name}
    assert dvc_md5(chain.root / "alone") == dvc_md5(chain.root / "base")
    assert extend("base") == figures  # both trainings go on from their last checkpoints


def test_a_vocabulary_that_the_text_cannot_give_is_refused(chain: Chain) -> None:
    with pytest.raises(StageError, match="give more text or a smaller vocab_size"):
        train_tokenizer.run(
            train_tokenizer.Params(vocab_size=30_000, characters_per_domain=9000), chain.root / "curated",
            chain.root / "bad", chain.job("bad"),
        )  # fmt: skip
