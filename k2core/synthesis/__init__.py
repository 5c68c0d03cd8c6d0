"""Text made by LLMs from the corpus: rephrasing behind its fidelity gate, questions with answers."""
