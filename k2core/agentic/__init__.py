"""Agentic data synthesis (K2 §3.1): tools, tasks, simulated and really executed dialogues, judged."""
