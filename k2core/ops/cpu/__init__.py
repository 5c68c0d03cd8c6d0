"""The backend `cpu`: fp32 kernels in C for the operations that take a model's time, built at first use.

They compute what `k2core/ops/reference.py` defines, faster. `operations.py` has the operations and says
which tensors it accepts, `autograd.py` the kernels as differentiable functions, `decoding.py` a decoding step,
`build.py` builds and loads.
"""
