"""The backend `cpu`: kernels in C for what a model spends its time on, in fp32, built at the first use.

They are a faster way to the numbers that `k2core/ops/reference.py` defines. `operations.py` has the operations and says
which tensors it accepts, `autograd.py` the kernels as differentiable functions, `decoding.py` a decoding step,
`build.py` builds and loads.
"""
