"""The model: Kimi K2's architecture (DeepSeek-V3's, as `deepseek_v3` in Hugging Face transformers).

Names of tensors end in their axes: B sequences, T positions, N = B·T tokens, V vocabulary, D hidden, H heads,
R latent rank of keys and values, C numbers cached per token (in MLA R + rope part), S cached positions, E experts,
K experts per token, F inner width of a feed-forward.
"""
