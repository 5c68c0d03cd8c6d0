"""Attributes of a document: one file a family of signals; thresholds come later, in curation."""
