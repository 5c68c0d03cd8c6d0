"""Work on the shards of the corpus on a cluster, by datatrove's executors for Slurm and Ray.

`following.py` is the stage's side: it launches tasks, waits, launches again what is missing, and cancels. `block.py` is
a task's side. Both need a file system that all nodes share, with the workspace and its environment on it.
"""
