"""Attributes of a document: one file per family of signals; thresholds come later, in curation."""
