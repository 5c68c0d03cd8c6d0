"""Domains by category as compact data, and how they are read."""
