"""The corpus topic measures every step on documents of its domain, and writes what a table needs."""

from __future__ import annotations

import random
from dataclasses import asdict

import pytest

from benchmarks import corpus, pages
from benchmarks.harness import save
from benchmarks.scale import smoke

TEXT = "The river {0} rises in the north, and it flows to the sea for {0} miles; that is what people have of it. " * 4


def text(seed: int) -> str:
    """Words enough for the recipe's vocabulary."""
    draw = random.Random(seed)
    return TEXT.format(seed) + " ".join("".join(draw.choices("abcdefghijklmnop", k=8)) for _ in range(100))


ROWS = [
    {
        "id": f"{domain}/{i}", "text": f"x = {i}\n" if domain == "code" else text(i), "domain": domain,
        "source": domain, "license": "CC0", "origin": "", "attribution": "", "language": "en",
    }
    for domain in ("web", "code", "math", "knowledge") for i in range(6)
]  # fmt: skip


@pytest.fixture(scope="module")
def entries():
    """Without the two models' seconds and without gathering the sources."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(corpus, "documents", lambda count: ROWS)
        monkeypatch.setattr(corpus, "embed", lambda texts: texts)
        monkeypatch.setattr(corpus, "judge", lambda source, text, limits, common: (source, text))
        return corpus.run(smoke())


def test_every_step_has_a_rate_and_the_peers_theirs(entries, tmp_path):
    by_name = {entry.name.removeprefix("corpus: "): entry for entry in entries}
    families = {f"signals, {name}" for name in corpus.families()}
    assert {"signals, language", "signals, prose", "signals, repetition", "signals, code"} <= families
    assert by_name.keys() == families | {
        "read", "signatures", "exact duplicates", "near duplicates", "paragraphs", "decontamination", "embedding",
        "gate", "tokenizing", "web pages",
    }  # fmt: skip
    assert all(entry.ours > 0 and entry.bytes_each > 0 for entry in entries)
    with_peer = {name for name, entry in by_name.items() if entry.peer}
    assert with_peer == {"read", *(family for family in families if family.removeprefix("signals, ") in corpus.PEERS)}
    assert by_name["signals, repetition"].ratio > 0 and by_name["signatures"].ratio is None
    assert by_name["signals, code"].bytes_each < 10, "code alone"
    rows = save(entries, tmp_path / "results.json")
    assert [row["name"] for row in rows] == [entry.name for entry in entries]
    table = corpus.table(rows)
    assert table.count("\n| ") == len(entries) and "| signatures | " in table
    assert "corpus: read" in pages.table(rows) and "signatures" not in pages.table(rows)


def test_megabytes_are_documents_times_their_size(entries):
    row = asdict(entries[0]) | {"ours": 2000.0, "bytes_each": 1500.0, "ratio": 2.5, "name": "corpus: read", "note": "n"}
    assert "| read | 2,000 | 3.00 | 2.50 | n |" in corpus.table([row])


def test_the_sample_has_every_source_in_the_recipes_proportions(monkeypatch):
    asked = {}

    class Source:
        def __init__(self, name):
            self.NAME = name

        def documents(self, config):
            asked[self.NAME] = config.limit
            return iter(())

    names = list(corpus.SOURCES)
    monkeypatch.setattr(corpus, "SOURCES", {name: Source(name) for name in names})
    corpus.documents(corpus.WHOLE // 10)
    recipe = corpus.load_section(corpus.Ingest, corpus.LAPTOP, "ingest")
    assert asked == {name: pytest.approx(getattr(recipe, name).limit / 10, abs=1) for name in names}
