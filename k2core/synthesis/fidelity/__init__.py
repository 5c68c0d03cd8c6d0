"""The fidelity gate: whether a rewrite says what its source says."""
