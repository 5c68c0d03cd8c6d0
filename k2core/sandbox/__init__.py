"""Code that runs where it can do no harm: one small interface, and bubblewrap behind it (docs/sandbox.md)."""
