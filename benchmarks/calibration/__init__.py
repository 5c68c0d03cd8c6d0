"""Pairs of source and rewrite that are known to say the same or not; the fidelity gate is measured on them."""
