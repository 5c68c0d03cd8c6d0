"""An OpenAI-compatible server of one model: `make serve`, or `python -m k2core.serve`."""
