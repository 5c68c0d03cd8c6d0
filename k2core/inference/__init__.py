"""Batched generation over the compressed key-value cache."""
