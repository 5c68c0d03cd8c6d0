"""The files of an index of passages: what each shard's items hold, then one index of all, made part by part.

`spill` writes a shard's items as numbers, `merge` the index that `decontamination.Index` maps into memory. Keys are
dealt to `PARTS` by their high bits, and one part is in memory at a time. An item's number is its place among the names
of its set, after the items of the sets before, so an index does not depend on how texts are cut into shards.

Shapes: I items, N words of a text, R records of a part, K n-grams of the index.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from k2core.corpus.duplicates.shingles import ngram_hashes, simple_words, word_hashes
from k2core.storage import write_json

SHORTEST = 8
"""Words of the shortest item that is searched for, as for GPT-3."""
COMMON = 10
"""An n-gram in more items, or more documents, than this is not evidence (GPT-3: ignored above 10)."""
PARTS = 32
"""Parts (a power of 2) of the keys, of which one is in memory."""
GRAM = np.dtype([("key", "<u8"), ("item", "<i8")])
"""An n-gram and an item that has it."""


def short_item(ngram_words: int) -> np.dtype:
    """An item of fewer words than an n-gram: its first `SHORTEST` as a key, its number, all its words' hashes."""
    return np.dtype([*GRAM.descr, ("words", "<u8", (ngram_words,))])


def spill(folder: Path, texts: Iterable[tuple[str, str]], ngram_words: int) -> None:
    """Write the items (name, text) of a shard into `folder`, each with its place in the shard for a number."""
    import pyarrow as pa
    import pyarrow.feather as feather

    folder.mkdir(parents=True)
    names, lengths = [], []
    grams, shorts = [np.empty(0, GRAM)], [np.empty(0, short_item(ngram_words))]
    for number, (name, text) in enumerate(texts):
        hashes_N = word_hashes(simple_words(text))
        names.append(name)
        lengths.append(len(hashes_N))
        if SHORTEST <= len(hashes_N) < ngram_words:
            short: np.ndarray = np.zeros(1, short_item(ngram_words))
            short["key"], short["item"] = ngram_hashes(hashes_N[:SHORTEST], SHORTEST), number
            short["words"][0, : len(hashes_N)] = hashes_N
            shorts.append(short)
        keys_R = np.unique(ngram_hashes(hashes_N, ngram_words))
        own = np.empty(len(keys_R), GRAM)
        own["key"], own["item"] = keys_R, number
        grams.append(own)
    feather.write_feather(pa.table({"name": pa.array(names, pa.string())}), str(folder / "names.arrow"), "uncompressed")
    np.save(folder / "lengths.npy", np.array(lengths, np.int64))
    for kind, records in (("grams", np.concatenate(grams)), ("short", np.concatenate(shorts))):
        part_R = (records["key"] >> np.uint64(64 - PARTS.bit_length() + 1)).astype(np.int64)
        np.save(folder / f"{kind}.npy", records[np.argsort(part_R, kind="stable")])
        np.save(folder / f"{kind}_parts.npy", np.append(0, np.cumsum(np.bincount(part_R, minlength=PARTS))))


def merge(sets: Sequence[tuple[str, Sequence[Path]]], ngram_words: int, folder: Path) -> None:
    """Write the index of `sets` (name, folders of `spill`) into `folder`.

    Its files are `keys` and `items`: each n-gram and the first item that has it, by rising n-gram; `anchors` and
    `short`: the items that are shorter, by their first words; `names.arrow` and `lengths` (words), by item;
    `about.json`.
    n-grams in more than `COMMON` items of a set are left out of that set. About 100 bytes an item are in memory.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.feather as feather

    folder.mkdir(parents=True)
    shards: list[tuple[Path, np.ndarray]] = []
    starts, about, names, lengths = [0], [], [pa.table({"name": pa.array([], pa.string())})], [np.empty(0, np.int64)]
    for name, parts in sets:
        tables = [feather.read_table(str(part / "names.arrow")) for part in parts]
        own = pa.concat_tables([names[0], *tables])
        order_I = pc.sort_indices(own["name"]).to_numpy()
        numbers_I = np.empty(len(order_I), np.int64)
        numbers_I[order_I] = starts[-1] + np.arange(len(order_I))
        lengths_I = np.concatenate([lengths[0], *(np.load(part / "lengths.npy") for part in parts)])
        shards += zip(parts, np.split(numbers_I, np.cumsum([len(table) for table in tables])), strict=False)
        starts.append(starts[-1] + len(order_I))
        names.append(own.take(order_I))
        lengths.append(lengths_I[order_I])
        searched = int(np.count_nonzero(lengths_I >= SHORTEST))
        about.append({"name": name, "start": starts[-2], "searched": searched, "too_short": len(order_I) - searched})
    feather.write_feather(pa.concat_tables(names), str(folder / "names.arrow"), "uncompressed")
    np.concatenate(lengths).tofile(folder / "lengths")
    write_json(folder / "about.json", {"ngram_words": ngram_words, "sets": about})
    with (folder / "keys").open("wb") as keys, (folder / "items").open("wb") as items:
        for part in range(PARTS):
            grams = _first_of_each(_of_part(shards, "grams", GRAM, part), np.array(starts))
            np.ascontiguousarray(grams["key"]).tofile(keys)
            np.ascontiguousarray(grams["item"]).tofile(items)
    with (folder / "anchors").open("wb") as anchors, (folder / "short").open("wb") as short:
        for part in range(PARTS):
            found = _of_part(shards, "short", short_item(ngram_words), part)
            found = found[np.lexsort((found["item"], found["key"]))]
            np.ascontiguousarray(found["key"]).tofile(anchors)
            found.tofile(short)


def _of_part(shards: Sequence[tuple[Path, np.ndarray]], kind: str, dtype: np.dtype, part: int) -> np.ndarray:
    """The records of all shards (folder, numbers of its items) whose keys are in a part."""
    found = [np.empty(0, dtype)]
    for folder, numbers_I in shards:
        begin, end = np.load(folder / f"{kind}_parts.npy")[part : part + 2].tolist()
        own = np.array(np.load(folder / f"{kind}.npy", mmap_mode="r")[begin:end])
        own["item"] = numbers_I[own["item"]]
        found.append(own)
    return np.concatenate(found)


def _first_of_each(grams_R: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Of equal n-grams that of the first item, shape (K,); without those that many items of their set share.

    Args:
        starts: the number of the first item of each set.
    """
    ordered = grams_R[np.lexsort((grams_R["item"], grams_R["key"]))]
    set_R = np.searchsorted(starts, ordered["item"], "right")
    new_R = np.ones(len(ordered), bool)
    new_R[1:] = (ordered["key"][1:] != ordered["key"][:-1]) | (set_R[1:] != set_R[:-1])
    runs = np.flatnonzero(new_R)
    counts = np.diff(np.append(runs, len(ordered)))
    rare = ordered[runs[counts <= COMMON]]
    return rare[np.unique(rare["key"], return_index=True)[1]]
