"""The LLM behind one OpenAI-compatible interface: embedded engine or any server, retries, replay cache."""
