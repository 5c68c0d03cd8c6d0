"""An exported model as MLflow loads it: `mlflow.pyfunc.load_model("models:/k2@champion").predict(["Hello"])`.

MLflow has a reference to the weights, no copy: they are looked for below the current folder, then in the workspace
that made them, each with DVC's cache and remote.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from k2core.storage import StorageError
from k2core.tracking.reference import resolve

REFERENCE = "reference.json"
PARAMETERS = {"max_new_tokens": 64, "do_sample": False}
"""What `predict` takes as `params`, with its defaults."""


class Generator:
    """A model and its tokenizer, loaded from a Hugging Face folder."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        both: list[Any] = [
            kind.from_pretrained(folder, local_files_only=True) for kind in (AutoTokenizer, AutoModelForCausalLM)
        ]
        self.tokenizer, self.model = both

    def predict(self, model_input: Any, params: dict[str, Any] | None = None) -> list[str]:
        """Answers to questions.

        Args:
            model_input: questions, or chats as lists of messages; a table's first column has them, too.
            params: some of `PARAMETERS`.
        """
        if hasattr(model_input, "iloc"):
            model_input = model_input.iloc[:, 0]
        return [self._answer(asked, {**PARAMETERS, **(params or {})}) for asked in model_input]

    def _answer(self, asked: str | Sequence[dict[str, Any]], params: dict[str, Any]) -> str:
        messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else list(asked)
        inputs = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        tokens = self.model.generate(**inputs, **params)[0, inputs["input_ids"].shape[1] :]
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))


def _load_pyfunc(path: str) -> Generator:
    """What MLflow calls with the model's folder.

    Raises:
        StorageError: the weights are nowhere.
    """
    known = json.loads((Path(path) / REFERENCE).read_text(encoding="utf-8"))
    places = dict.fromkeys((Path.cwd(), Path(known["workspace"])))
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        for place in places:
            try:
                return Generator(resolve(place, known["path"], known["md5"], Path(folder) / "model"))
            except StorageError as error:
                faults.append(str(error))
    raise StorageError("; ".join(faults))
