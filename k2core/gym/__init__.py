"""The gym: environments with verifiers (K2 §3.2.1), their prompts, and dialogues to imitate."""
