"""`python -m benchmarks`: the topics of `command.py`, or `gpu`, which also runs where most packages are missing."""

import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["gpu"]:
        from benchmarks.gpu import main

        sys.exit(main(sys.argv[2:]))
    from benchmarks.command import app

    app()
