"""`python -m benchmarks`: all topics (`command.py`), or `gpu`, which also runs on a machine that lacks most packages."""

import sys

if __name__ == "__main__":
    if sys.argv[1:2] == ["gpu"]:
        from benchmarks.gpu import main

        sys.exit(main(sys.argv[2:]))
    from benchmarks.command import app

    app()
