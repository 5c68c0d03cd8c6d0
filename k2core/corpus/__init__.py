"""Documents: sources, signals, quality, duplicates, curation."""
