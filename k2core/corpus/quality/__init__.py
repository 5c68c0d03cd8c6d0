"""Quality as K1.5 scores it (appendix B): rules, a trained classifier, embedding similarity, an LLM's judgement."""
