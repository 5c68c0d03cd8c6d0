"""Rewrites by a language model: styles, the rewriting of long documents, what it will cost."""
