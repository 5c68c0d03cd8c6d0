"""One module per DVC stage. `python -m stages` checks a recipe, lists code dependencies and switches recipes."""
