"""The backend `cuda`: attention, experts, head and sampling for NVIDIA GPUs, in torch alone.

Nothing here waits for the GPU, so a step can be captured in a CUDA graph, and nothing adds by atomics, so results
repeat. `operations.py` has the operations and says which tensors it accepts; `attention.py` is FlexAttention,
`experts.py` the way of tokens to their experts and back, `head.py` logits and loss in pieces.
"""
