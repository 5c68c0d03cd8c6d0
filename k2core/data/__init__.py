"""Token data: shards, packed rows, mixtures, batches."""
