"""Pairs of source and rewrite of which it is known whether they say the same: what the fidelity gate is measured on."""
