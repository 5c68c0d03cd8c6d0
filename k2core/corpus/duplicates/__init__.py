"""What stands in the corpus twice, or in an evaluation set: documents, near duplicates, paragraphs, passages."""
