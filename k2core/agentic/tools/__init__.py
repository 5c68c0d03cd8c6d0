"""Tool specifications, where they come from, and the simulated state they work on."""
