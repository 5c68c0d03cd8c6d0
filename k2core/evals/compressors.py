"""What byte-level compressors need for the held-out text: the yardstick beside a model's bits per byte.

| name | what |
|---|---|
| `xz` | `xz -9e` over the held-out documents of a domain as one stream; it has seen nothing else |
| `zstd_dictionary` | zstd at level 19, each document alone, with a dictionary trained on the domain's training text |
| `xz_after_training` | how much longer `xz -9e` makes the training text when the held-out documents follow it |

`xz` may copy from one held-out document into the next, which the model, whose attention ends with the document, may
not; neither may zstd, which knows only what fits into its dictionary. `xz_after_training` is the strictest: it has
both, as far back as 64 MiB. Both of the latter improve with the training text that they get; xz takes about a second
per megabyte, twice.
"""

from __future__ import annotations

import lzma
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from k2core.storage import StorageError

DICTIONARY_BYTES = 112_640
"""The size that `zstd --train` makes."""
END = b"\0"
"""Ends a document in a stream: the model pays for its end mark as well."""

Texts = Mapping[str, Sequence[str]]
Compressor = Callable[[Sequence[bytes], Sequence[bytes]], int]


def yardsticks(heldout: Texts, training: Texts, training_bytes: int) -> dict[str, float]:
    """Bits per byte of the held-out texts as `yardstick/NAME/DOMAIN`, and as `yardstick/NAME` over all domains.

    Over all domains it is all bits over all bytes, as for a model. The bytes are those of the texts alone.

    Args:
        heldout: texts by domain, exactly those that a model's bits per byte are measured on.
        training: texts by domain, in an order of which any first part is a fair sample.
        training_bytes: how much of a domain's training texts is used, at most.

    Raises:
        StorageError: a domain has too little training text for a dictionary.
    """
    domains = sorted(heldout)
    samples = {domain: _first(training.get(domain, ()), training_bytes) for domain in domains}
    texts = {domain: [text.encode() for text in heldout[domain]] for domain in domains}
    size = {domain: sum(map(len, texts[domain])) for domain in domains}
    figures: dict[str, float] = {}
    # Both compressors release the interpreter's lock; each xz at this preset holds 0.7 GB.
    with ThreadPoolExecutor(max_workers=2) as pool:
        for name, compressor in COMPRESSORS.items():
            sizes = list(pool.map(compressor, (texts[d] for d in domains), (samples[d] for d in domains)))
            figures[f"yardstick/{name}"] = 8 * sum(sizes) / sum(size.values())
            figures |= {f"yardstick/{name}/{d}": 8 * out / size[d] for d, out in zip(domains, sizes, strict=True)}
    return figures


def xz(texts: Sequence[bytes], _: Sequence[bytes]) -> int:
    """Bytes of the documents as one stream."""
    return len(lzma.compress(_stream(texts), preset=9 | lzma.PRESET_EXTREME))


def zstd_dictionary(texts: Sequence[bytes], samples: Sequence[bytes]) -> int:
    """Bytes of the documents one by one, without the dictionary, in frames without the metadata a store would have."""
    import zstandard

    seen = sum(map(len, samples))
    try:
        dictionary = zstandard.train_dictionary(min(DICTIONARY_BYTES, seen // 4), list(samples), level=19)
    except zstandard.ZstdError as error:
        raise StorageError(
            f"{len(samples)} training documents ({seen:,} bytes) of a domain that has held-out text are too few to "
            f"train a zstd dictionary ({error}); ingest more of it or raise tokenize.yardstick_bytes"
        ) from None
    parameters = zstandard.ZstdCompressionParameters.from_level(
        19, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=False, write_dict_id=False
    )
    compressor = zstandard.ZstdCompressor(dict_data=dictionary, compression_params=parameters)
    return sum(len(compressor.compress(text)) for text in texts)


def xz_after_training(texts: Sequence[bytes], samples: Sequence[bytes]) -> int:
    """Bytes that the documents add to the compressed training text."""
    return xz([*samples, *texts], ()) - xz(samples, ())


COMPRESSORS: dict[str, Compressor] = {
    "xz": xz, "zstd_dictionary": zstd_dictionary, "xz_after_training": xz_after_training,
}  # fmt: skip


def _stream(texts: Sequence[bytes]) -> bytes:
    return b"".join(text + END for text in texts)


def _first(texts: Sequence[str], left: int) -> list[bytes]:
    """The first texts that have `left` bytes together."""
    chosen = []
    for text in texts:
        encoded = text.encode()
        left -= len(encoded)
        if left < 0:
            break
        chosen.append(encoded)
    return chosen
