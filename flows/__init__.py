"""Prefect around the graph of `dvc.yaml`: order, retries, schedule, pages. DVC alone decides what must run."""
