"""Speed against what users would pick instead: `python -m benchmarks`, or `make bench`. One module per topic."""
