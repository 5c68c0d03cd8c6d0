"""What a training of a recipe's model needs of a cluster, by arithmetic: memory, operations, exchanges, time.

`cluster.py` is the machine, `jobs.py` what the recipe trains. Two families of meshes share one interface (`mesh.py`):
`today.py` is what `k2core/training/` runs, `pipelined.py` is what K2 ran, which this code cannot. `plan.py` puts them
together, `search.py` looks for others, `tables.py` writes.
"""
