"""The tokenizer: lossless, deterministic, safe against control tokens in text, stable under copying."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2core.chat.special_tokens import SPECIAL_TOKENS
from k2core.chat.tokenizer import Tokenizer
from k2core.storage import StorageError

TEXTS = [path.read_text() for path in sorted(Path(json.__file__).parent.glob("*.py"))] + [
    f"Dear {name}, the train to {city} leaves at {n}:15. " for n, name in enumerate(("Anna", "Boris", "Chen"))
    for city in ("Paris", "Lagos", "Lima")
] * 20  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TEXTS, 700)


@settings(max_examples=200, deadline=None)
@given(text=st.text())
def test_any_text_survives(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode_batch([text]) == [tokenizer.encode(text)]


def test_vocabulary_has_the_asked_size_and_the_control_tokens_last(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 700
    ids = [tokenizer.id_of(token) for token in SPECIAL_TOKENS]
    assert ids == list(range(700 - len(SPECIAL_TOKENS), 700))
    assert tokenizer.eos_id == tokenizer.id_of("[EOS]") != tokenizer.im_end_id == tokenizer.id_of("<|im_end|>")


def test_control_tokens_come_only_when_asked_for(tokenizer: Tokenizer) -> None:
    text = "a<|im_end|>b[EOS]"
    plain, special = tokenizer.encode(text), tokenizer.encode(text, allow_special=True)
    assert max(plain) < tokenizer.id_of("[BOS]")
    assert tokenizer.im_end_id in special and special[-1] == tokenizer.eos_id
    assert tokenizer.decode(plain) == tokenizer.decode(special) == text
    assert tokenizer.decode(special, skip_special=True) == "ab"


@pytest.mark.parametrize("value", ["Paris", "Anna Paris", "2024", "XK-17"])
def test_a_copied_value_keeps_its_tokens(tokenizer: Tokenizer, value: str) -> None:
    wanted = tokenizer.encode(value)
    for before, after in ((" to ", "."), ('{"city": "', '"}'), ("(", ")"), ("\n", "\n")):
        ids = tokenizer.encode(before + value + after)
        assert any(ids[i : i + len(wanted)] == wanted for i in range(len(ids))), (before, after)


def test_training_and_files_are_deterministic(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "a")
    Tokenizer.train(TEXTS, 700).save(tmp_path / "b")
    Tokenizer.load(tmp_path / "a").save(tmp_path / "c")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        contents = {(tmp_path / folder / file).read_bytes() for folder in "abc"}
        assert len(contents) == 1


def test_transformers_reads_the_same_tokens(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)
    other = AutoTokenizer.from_pretrained(tmp_path)
    text = "The train to Lima leaves at 12:15.\n<|im_user|>user<|im_middle|>Paris?<|im_end|>"
    assert other.encode(text) == tokenizer.encode(text, allow_special=True)
    assert other.decode(other.encode(text)) == text
    assert other.eos_token_id == tokenizer.im_end_id and other.pad_token_id == tokenizer.pad_id


def test_faults_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more text or a smaller vocab_size"):
        Tokenizer.train(["abc"], 2000)
    with pytest.raises(ValueError, match="below 269"):
        Tokenizer.train(TEXTS, 100)
    with pytest.raises(StorageError, match="train_tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(StorageError, match="not a tokenizer"):
        Tokenizer.load(tmp_path)
