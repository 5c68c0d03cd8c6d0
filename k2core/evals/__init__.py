"""Evaluation: what a model can do on held-out items, with intervals."""
