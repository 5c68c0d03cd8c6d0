"""What a model is measured by. A new benchmark is a module here with a function `measure(subject) -> Measured`.

The names of its scores begin with a word of its own. The scorecard holds the benchmarks in the order of their names.
"""
