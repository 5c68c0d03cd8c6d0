"""From raw documents to batches: sources, filters, rephrasing, shards, mixture, packing, loader."""
