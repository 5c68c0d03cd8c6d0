"""The toy stages need nothing of each other."""
