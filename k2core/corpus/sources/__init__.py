"""Sources of documents: one file per source, each yields `Document`s with licence, origin and attribution."""
