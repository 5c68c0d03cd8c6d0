"""Experiments on the recipe: each module is a command that reads a finished workspace and writes what it found."""
