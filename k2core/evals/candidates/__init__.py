"""Models that can be scored, whoever made them: each answers dialogues with text in K2's format.

| given as | is asked by |
|---|---|
| a folder of our export (`deepseek_v3` with K2's control tokens) | our own sampler |
| any other folder that `transformers` loads, or `hf:FOLDER` | `transformers`' generate and the folder's chat template |
| `http://HOST/v1#MODEL` | OpenAI's client, with the key in `OPENAI_API_KEY` |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from k2core.storage import StorageError, parse_json

WEB = ("http://", "https://")


@dataclass(frozen=True)
class Wanted:
    """A dialogue that wants a reply of at most `max_new_tokens` of the candidate's own tokens."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    max_new_tokens: int


@dataclass(frozen=True)
class Reply:
    """A reply as K2 would write it: words, calls, end; `truncated` if the budget cut it."""

    text: str
    truncated: bool


class Candidate(Protocol):
    """A model under test."""

    def replies(self, wanted: Sequence[Wanted], samples: int, temperature: float, seed: int) -> list[list[Reply]]:
        """`samples` replies to each of `wanted`; equal arguments, equal replies, as far as the model's server can."""
        ...


def check(given: str) -> None:
    """Refuse at once what can be no model; nothing is loaded, and no server is asked.

    Raises:
        StorageError: an address that names no model, or a folder that holds none.
    """
    if given.startswith(WEB):
        address, _, model = given.partition("#")
        if not model:
            raise StorageError(f"{given}: which model of that server? Name it behind a #, as in {address}#MODEL")
    elif not ((folder := Path(given.removeprefix("hf:"))) / "config.json").is_file():
        raise StorageError(f"{folder}: no config.json there; name a folder that holds a model")


def candidate_of(given: str) -> Candidate:
    """The model that a user names.

    Raises:
        StorageError, RecipeError: there is none, or it cannot be loaded.
    """
    check(given)
    if given.startswith(WEB):
        from k2core.evals.candidates.address import Address

        address, _, model = given.partition("#")
        return Address(address, model)
    folder = Path(given.removeprefix("hf:"))
    if not given.startswith("hf:") and _is_ours(folder):
        from k2core.evals.candidates.export import Export

        return Export(folder)
    from k2core.evals.candidates.hugging_face import HuggingFace

    return HuggingFace(folder)


def _is_ours(folder: Path) -> bool:
    from k2core.chat.tokenizer import Tokenizer

    try:
        config = parse_json((folder / "config.json").read_text(encoding="utf-8"))
        Tokenizer.load(folder)
    except (StorageError, ValueError, FileNotFoundError):
        return False
    return isinstance(config, dict) and config.get("model_type") == "deepseek_v3"
