"""Repositories with a bug that their own tests show, to be mended (K2 §3.1)."""
