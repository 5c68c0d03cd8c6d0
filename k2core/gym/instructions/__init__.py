"""Instructions that code can check, how they go together, and how a reply may pretend to meet them (K2 §3.2.1)."""
