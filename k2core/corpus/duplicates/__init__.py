"""Text that occurs twice in the corpus, or in an evaluation set: documents, near duplicates, paragraphs, passages."""
