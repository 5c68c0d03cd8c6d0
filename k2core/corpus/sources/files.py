"""Sources that are data: files on disk or in a bucket, and Hugging Face datasets, named in the recipe."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from k2core.corpus.documents import UNDETERMINED, Domain
from k2core.recipe import Section

Kind = Literal["jsonl", "parquet", "text", "warc", "huggingface"]
Filled = Literal["text", "id", "origin", "license", "attribution", "language", "date"]
_KINDS_WITH: dict[str, tuple[Kind, ...]] = {
    "columns": ("jsonl", "parquet", "huggingface"),
    "subset": ("huggingface",),
    "split": ("huggingface",),
}


class FileSource(Section):
    """One entry of `ingest.files`."""

    name: str = Field(pattern="^[a-z][a-z0-9_]*$", description="the source's name in tables, ids and figures")
    kind: Kind = Field(description="format of the files; text: one document per file; warc: HTML pages, text extracted")
    path: str = Field(
        min_length=1,
        description="file, pattern (*, **, ?, [ab]) or list (.paths), on disk or s3://; or a Hugging Face dataset",
    )
    subset: str = Field(default="", description="huggingface: the dataset's configuration, empty for its default")
    split: str = Field(default="train", description="huggingface: the split to read")
    columns: dict[Filled, str] = Field(
        default={"text": "text"}, description="field of the document → column that fills it; `text` is needed"
    )
    domain: Domain = Field(description="domain whose rules apply and in whose share of the mixture the text counts")
    license: str = Field(min_length=1, description="licence of documents without one in a column")
    attribution: str = Field(min_length=1, description="whom to name for documents without one in a column")
    language: str = Field(default=UNDETERMINED, description="ISO 639 code of documents without one in a column")
    limit: int | None = Field(ge=0, description="most documents, from the start (0 leaves the source out, null: all)")

    @field_validator(*_KINDS_WITH)
    @classmethod
    def _fits_the_kind(cls, value: Any, info: ValidationInfo) -> Any:
        kinds, kind = _KINDS_WITH[str(info.field_name)], info.data.get("kind")
        if kind is not None and kind not in kinds:
            raise ValueError(f"a source of kind {kind} has none (only {', '.join(kinds)}); take the key out")
        return value

    @field_validator("columns")
    @classmethod
    def _has_text(cls, value: dict[Filled, str]) -> dict[Filled, str]:
        if "text" not in value:
            raise ValueError("`text` must be among them")
        return value
