"""A task of a Slurm array: `python -m k2core.corpus.cluster.task EXECUTOR` runs the pickled executor of datatrove.

The process that does the shards imports this module again, so it imports nothing heavy.
"""

from __future__ import annotations

import sys


def main() -> None:
    import dill

    with open(sys.argv[1], "rb") as file:
        executor = dill.load(file)
    executor.run()


if __name__ == "__main__":
    main()
