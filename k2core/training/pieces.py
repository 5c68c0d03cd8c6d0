"""Which layers a piece of a pipeline has."""

from __future__ import annotations


def layers_of(layers: int, pieces: int, number: int) -> range:
    """The layers of piece `number` of `pieces`; the first and the last, which have more to do, have the fewer."""
    fewest, more = divmod(layers, pieces)
    start = (pieces - more) // 2
    first, after = (fewest * n + min(max(n - start, 0), more) for n in (number, number + 1))
    return range(first, after)
