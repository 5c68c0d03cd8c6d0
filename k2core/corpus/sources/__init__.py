"""Sources of documents: one file a source, each yields `Document`s with licence, origin and attribution."""
