"""Question-answer pairs of the anneal phase: by grammar, by an LLM, from solved problems."""
