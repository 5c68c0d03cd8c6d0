"""The steps of curation, with files between them: shard by shard, and one that sees all documents as numbers."""
