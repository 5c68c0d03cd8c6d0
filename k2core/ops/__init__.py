"""One function per operation, whichever backend computes it."""
