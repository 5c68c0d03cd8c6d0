"""Lineage: from an artifact back to its sources, and from a document forward to the models that trained on it.

`python -m k2core.lineage`. `dvc.lock` says which stage made which bytes from which others (`chain`), the tables of the
corpus say what became of a document (`corpus`, `sources`, `document`), and the loader's plan, which is a pure function
of the shards and the recipe, says which steps trained on it (`training`). Nothing is recorded for it on the side.
"""
