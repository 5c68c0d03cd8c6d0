"""Which documents a phase takes, and how much of each domain."""
