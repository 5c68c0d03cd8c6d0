"""CPU kernels in C for what a model spends its time on, built at the first use where there is a C compiler.

They are a faster way to the same numbers: every caller has the plain torch operations beside it, which say what is
meant, run on GPUs, in bf16 and without a compiler. To change the model, change those; `tests/kernels` then names the
kernel that no longer agrees.

`library.py` builds and loads, `functions.py` makes differentiable functions of them.
"""
