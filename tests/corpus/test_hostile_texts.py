"""One document ends nothing: every signal and part of the quality is linear; a text that one fails on is set aside."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hostile import texts, too_slow
from workspace import ROOT

from k2core.corpus import tagging
from k2core.corpus.documents import COLUMNS, DOMAINS, document_schema
from k2core.corpus.duplicates import dedup
from k2core.corpus.duplicates.dedup import MinhashConfig
from k2core.corpus.quality import classifier
from k2core.corpus.quality.damage import KINDS, damage
from k2core.corpus.quality.judge import grade_of
from k2core.corpus.quality.similarity import token_counts, token_ids, token_weights, vectors_of
from k2core.corpus.signals import mathematics, pii
from k2core.corpus.signals.code import LONGEST
from k2core.corpus.tagging import SET_ASIDE, SIGNALS, tag
from k2core.corpus.workers import Corpus
from k2core.stage import Job
from k2core.storage import read_lines, read_table, write_table
from stages import tag as stage

MINHASH = MinhashConfig(ngram_words=5, buckets=14, hashes_per_bucket=8, seed=1)
SIZE = 16_000


def row(text: str, domain: str, name: str = "a/b") -> dict[str, str]:
    return {**dict.fromkeys(COLUMNS, "x"), "id": name, "text": text, "domain": domain}


def embed(text: str) -> None:
    ids = [*token_ids([text])]
    vectors_of(ids, token_weights(token_counts(np.array(ids[0], int))))


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    """What is loaded once is not part of what a text costs."""
    for domain in DOMAINS:
        tag(row("One plus one. 1 + 1 = 2, a@b.org", domain), 500, MINHASH)
    embed("one")


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_text_is_slow_or_fails(domain: str) -> None:
    """All signals and the fingerprints together."""
    assert too_slow(lambda text: tag(row(text, domain), 500, MINHASH), SIZE, milliseconds=12) == []


def test_no_text_is_slow_for_the_quality() -> None:
    def parts(text: str) -> None:
        classifier.line_of(text, 4000)
        embed(text[:4000])
        for kind in KINDS:
            damage(text, kind, "x")
        assert grade_of(text) is None

    assert too_slow(parts, SIZE, milliseconds=12) == []


@pytest.mark.parametrize(
    "text", ["[" * 200_000, '{"grade":' * 200_000, '{"grade": ' + "9" * 5000 + "}", "null", "3", ""]
)
def test_an_answer_that_is_no_grade_is_none(text: str) -> None:
    assert grade_of(text) is None


HALF = LONGEST // 2 - 1
DEEP = {
    "num": "1," * 8_000_000, "paren": "(" * LONGEST, "brackets": "[" * LONGEST, "braces": "{" * (LONGEST - 3) + "1:2",
    "plus": "1+" * HALF + "1", "dots": "a" + ".a" * HALF, "not": "not " * (HALF // 2) + "1", "line": "a" * LONGEST,
    "minus": "-" * (LONGEST - 1) + "1", "elif": "if a:\n x\n" + "elif a:\n x\n" * (HALF // 6),
    "lambda": "lambda:" * (HALF // 4) + "1", "indents": "".join(" " * i + "if a:\n" for i in range(1000)),
}  # fmt: skip


@pytest.mark.parametrize("name", DEEP)
def test_no_source_is_too_deep_or_too_long_to_look_at(name: str) -> None:
    """In a process of its own, which may take 2 GiB: the parser is C, and may end all of it."""
    script = "import sys; from k2core.corpus.signals import code; print(code.attributes(sys.stdin.read())['parses'])"
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_DATA, (2**31, 2**31)); {script}"
    done = subprocess.run(
        [sys.executable, "-c", limited], input=DEEP[name], capture_output=True, text=True, timeout=120, cwd=ROOT
    )
    assert (done.returncode, done.stdout) in [(0, "True\n"), (0, "False\n")], done.stderr[-300:]


def test_the_inputs_of_the_reports() -> None:
    assert mathematics.attributes("1+1=" + "9" * 5000)["equations"] == 0
    assert mathematics.attributes("1+1=2." + "0" * 5000)["equations"] == 0
    assert mathematics.attributes("1+1=2")["equations"] == 1
    started = time.process_time()
    assert pii.attributes("a-a." * 500_000 + "@")["emails"] == 0
    assert pii.attributes("a-a." * 500_000 + "@b")["emails"] == 0
    dedup.attributes("a" + "\u0300\u0323" * 100_000, MINHASH)
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("a@b.org", 1), ("x a.b+c@d-e.co.uk, y", 1), ("a@b.org@c.org", 1), ("a@b@c.org", 1), ("a@b.org!c@d.org", 2),
        ("a@b.org_c@d.org", 1), ("!!!@x.org", 0), ("a!@x.org", 1), ("..ada@x.org", 1), ("a@[8.8.8.8]", 1),
        ("@x.org", 0), ("a@b", 0), ("<a@b.org><c@d.org>", 2), ("a.@b.org", 0), ("ada@example.com", 0),
        ("a@b.org c@d.org " * 50, 100),
    ],
)  # fmt: skip
def test_addresses_are_those_of_the_pattern(text: str, count: int) -> None:
    """Searched around each @, they are what datatrove's pattern finds from the left."""
    from datatrove.pipeline.formatters.pii import PIIFormatter

    whole = [found[0] for found in PIIFormatter().emails_replacer.regex.finditer(text)]
    assert len(list(pii._emails(text))) == len(whole)
    assert pii.attributes(text)["emails"] == count


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that fails on a certain word."""
    real = tagging.SIGNALS["prose"].attributes

    def attributes(text: str, words: list[str], language: str) -> dict[str, object]:
        if "poison" in text:
            raise ZeroDivisionError("a share of nothing")
        return real(text, words, language)

    broken = ModuleType("prose")
    broken.COLUMNS, broken.attributes = SIGNALS["prose"].COLUMNS, attributes  # type: ignore[attr-defined]
    monkeypatch.setitem(tagging.SIGNALS, "prose", broken)


def test_a_document_that_a_signal_fails_on_is_set_aside(breaking: None, tmp_path: Path) -> None:
    rows = [row(text, "web", f"own/{i}") for i, text in enumerate(["A good text.", "It is poison.", "Another one."])]
    write_table(tmp_path / "documents" / "own.parquet", rows, document_schema())
    params = stage.Params(language_characters=500, minhash=MINHASH)
    figures = stage.run(params, Corpus(workers=1), tmp_path / "documents", tmp_path / "out", Job("tag", tmp_path, None))
    assert figures["set_aside/own"] == 1 and figures["documents/own"] == 3
    aside = {"id": "own/1", "reason": "ZeroDivisionError: a share of nothing"}
    assert read_lines(tmp_path / "out" / f"own{SET_ASIDE}") == [aside]
    assert tagging.untagged(tmp_path / "out", "own.parquet") == {aside["id"]: aside["reason"]}
    assert [found["id"] for found in read_table(tmp_path / "out" / "own.parquet")] == ["own/0", "own/1", "own/2"]


def test_the_texts_are_hostile() -> None:
    """Known-wrong: what the pattern of e-mail addresses did before."""
    import re

    found = too_slow(lambda text: re.search(r"\b[a-z-]+(?:\.[a-z-]+)*@", text), SIZE // 2, milliseconds=12)
    assert any("a-a." in name for name in found) and len(list(texts(100))) > 100
