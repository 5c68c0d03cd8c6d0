"""Token ids on disk, packed into rows, as a phase reads them and held-out text is scored on them."""
