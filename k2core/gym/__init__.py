"""Verifiable environments: one file each, listed in `registry`."""
