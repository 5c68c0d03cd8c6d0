"""A chat with a model at a terminal: `make chat`, or `python -m k2core.talk`."""
