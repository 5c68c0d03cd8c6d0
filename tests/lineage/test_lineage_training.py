"""What lineage says of training equals what the loader's batches hold."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections import defaultdict
from pathlib import Path

import pytest
from lineage_fixture import LEFT_OUT, PHASES

from k2core.chat.tokenizer import Tokenizer
from k2core.data.rows.batch import IGNORE
from k2core.data.rows.loader import PhaseSource
from k2core.data.rows.shards import TokenShards
from k2core.lineage.chain import Chain, settings
from k2core.lineage.document import story
from k2core.lineage.training import Training, listed
from k2core.recipe import validate
from k2core.storage import StorageError, read_table
from k2core.training.phases import Extension, Phase

NAMES = [*PHASES, "extend_context"]
Counts = dict[tuple[str, str], int]


def texts(root: Path) -> dict[str, tuple[str, str]]:
    """Id → (domain in the shards, text) of every document that may be trained on, from the tables alone."""
    found = {}
    for row in read_table(root / "data/curated/documents.parquet"):
        if row["split"] == "train":
            found[row["id"]] = row["domain"], row["text"]
    for row in read_table(root / "data/rephrased/documents.parquet"):
        found[row["id"]] = row["domain"], row["text"]
    return found | {row["id"]: ("qa", row["text"]) for row in read_table(root / "data/questions/documents.parquet")}


@pytest.fixture(scope="module")
def read(made: Path, sft: Chain) -> tuple[Counts, dict[tuple[str, str], set[int]], set[str], dict[str, int]]:
    """What the batches hold: tokens and steps by (phase, document); documents told apart; tokens of each document.

    A document is found by its token ids: the targets of a segment are a document's tokens from a multiple of the
    context on. Documents that share such a stretch (a lone end mark) cannot be told apart.
    """
    tokenizer, shards = Tokenizer.load(made / "data/tokenizer"), TokenShards(made / "data/tokens")
    ids = {name: [*tokenizer.encode(text), tokenizer.eos_id] for name, (_, text) in texts(made).items()}
    tokens: Counts = defaultdict(int)
    steps = defaultdict(set)
    unclear: set[str] = set()
    cursor: dict[str, int] = {}
    for name in NAMES:
        stage = sft.stages[name if name == "extend_context" else f"pretrain@{name}"]
        section = next(value for value in settings(stage).values() if "mixture" in value)
        phase = validate(Extension if name == "extend_context" else Phase, section, name)
        owners = defaultdict(set)
        for document, sequence in ids.items():
            for start in range(0, len(sequence), phase.context_length):
                owners[tuple(sequence[start : start + phase.context_length])].add(document)
        unclear.update(*(owner for owner in owners.values() if len(owner) > 1))
        source = PhaseSource(
            shards, weights=phase.mixture, steps=phase.steps, batch_rows=256 // phase.context_length,
            context=phase.context_length, seed=3, cursor=cursor, select=phase.select,
        )  # fmt: skip
        cursor = source.cursor
        for step in set(range(phase.steps)) - ({LEFT_OUT} if name == "stable" else set()):
            batch = source.batch(step)
            for targets_T, segments_T in zip(batch.targets_BT, batch.segments_BT, strict=True):
                for segment in segments_T.unique():
                    found = tuple(targets_T[(segments_T == segment) & (targets_T != IGNORE)].tolist())
                    for document in owners[found] if found else ():
                        tokens[name, document] += len(found)
                        steps[name, document].add(step)
    return tokens, steps, set(ids) - unclear, {name: len(sequence) for name, sequence in ids.items()}


def test_the_list_of_documents_equals_what_the_batches_hold(sft: Chain, read) -> None:
    tokens, _, clear, lengths = read
    rows = {row["document"]: row for row in csv.DictReader(listed(sft), delimiter="\t")}
    assert len(clear) > 0.9 * len(lengths)
    seen = {document for _, document in tokens if document in clear}
    assert seen == set(rows) & clear and len(seen) > 100
    for document in seen:
        row = rows[document]
        assert int(row["tokens"]) == lengths[document]
        for name in NAMES:
            assert float(row[name]) == pytest.approx(tokens.get((name, document), 0) / lengths[document], rel=1e-3)
        assert float(row["seen"]) == pytest.approx(sum(float(row[name]) for name in NAMES), rel=2e-3)
    assert {row["license"] for row in rows.values()} == {"CC-BY-4.0"}
    assert any(float(row["stable"]) % 1 > 0 for row in rows.values()), "no document of which a piece was left out"


def test_both_ways_agree_and_steps_are_the_batches(sft: Chain, read) -> None:
    tokens, steps, clear, _ = read
    rows = {row["document"]: row for row in csv.DictReader(listed(sft), delimiter="\t")}
    for document in sorted(clear)[::7]:
        told = _trained(list(story(sft, document)))
        for name in NAMES:
            if (name, document) in tokens:
                found = re.match(r"seen (\S+) times?.*, at steps? ([\d, ]+)", told[name])
                assert found, told[name]
                assert float(found[1]) == pytest.approx(float(rows[document][name]), rel=5e-3)
                assert {int(step) for step in found[2].split(", ")} == set(sorted(steps[name, document])[:8])
            else:
                assert told[name].startswith("not drawn"), (document, name)


def _trained(lines: list[str]) -> dict[str, str]:
    """Phase → what the last block of a story says of it."""
    told: dict[str, str] = {}
    for line in lines[next(n for n, line in enumerate(lines) if "trained on it" in line) + 1 :]:
        label, _, text = line.strip().partition("  ")
        told |= {name: text.strip() for name in label.split(", ") if name not in told}
    return told


def test_a_document_stands_where_it_is_said_to(made: Path, sft: Chain) -> None:
    training, tokenizer = Training(sft), Tokenizer.load(made / "data/tokenizer")
    kept = {row["id"]: row for row in read_table(made / "data/curated/documents.parquet")}
    splits = set()
    for document in [*sorted(kept)[::5], *sorted(texts(made))[-20:]]:
        place = training.place(document)
        text = kept[document]["text"] if document in kept else texts(made)[document][1]
        if place is None:
            assert kept[document]["split"] == "heldout"
            continue
        splits.add(place.split)
        shard = training.shards.tokens(place.split, place.domain)[place.start : place.end]
        assert shard.tolist() == [*tokenizer.encode(text), tokenizer.eos_id]
    assert splits == {"train", "heldout"}


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def test_what_does_not_fit_together_is_said(copy: Path) -> None:
    state = copy / "models" / "decay" / "trainer.json"
    content = json.loads(state.read_text())
    content["documents"]["web"] += 1
    state.write_text(json.dumps(content))
    with pytest.raises(StorageError, match=r"models/decay/trainer\.json: the phase took documents up to"):
        list(listed(Chain.behind(copy, "models/sft")))
    assert len(list(listed(Chain.behind(copy, "models/stable")))) > 50

    shutil.rmtree(copy / "models" / "stable")
    with pytest.raises(StorageError, match=r"models/stable: not here.*dvc checkout"):
        list(listed(Chain.behind(copy, "models/stable")))

    made = copy / "data/questions/documents.parquet"
    shutil.copyfile(copy / "data/rephrased/documents.parquet", made)
    with pytest.raises(StorageError, match=r"train/qa does not hold the documents of the tables"):
        list(listed(Chain.behind(copy, "models/stable")))


def test_an_artifact_before_training_has_no_documents_trained_on(made: Path) -> None:
    with pytest.raises(StorageError, match=r"data/curated: no token shards are behind it"):
        list(listed(Chain.behind(made, "data/curated")))
    with pytest.raises(StorageError, match=r"data/tokens: no training is behind it"):
        list(listed(Chain.behind(made, "data/tokens")))
