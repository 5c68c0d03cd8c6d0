"""A folder as the stage `export` writes it, of a tiny model that has learnt nothing."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from k2core.chat.jinja_template import CHAT_TEMPLATE
from k2core.chat.tokenizer import Tokenizer
from k2core.formats.huggingface import save_huggingface
from k2core.model.config import ModelConfig
from k2core.model.transformer import Transformer


def export_untrained(folder: Path) -> Path:
    """Write the model, its tokenizer and its template to `folder`."""
    texts = [path.read_text() for path in sorted(Path(json.__file__).parent.glob("*.py"))]
    tokenizer = Tokenizer.train(texts, 600)
    torch.manual_seed(0)
    model = Transformer(ModelConfig(
        vocab_size=600, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, attention="mla", q_lora_rank=16, kv_lora_rank=12, qk_nope_head_dim=8,
        qk_rope_head_dim=8, v_head_dim=12, n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1,
        first_k_dense_replace=1, routed_scaling_factor=2.827, rope_theta=50000.0, rope_scaling=None,
        max_position_embeddings=512, rms_norm_eps=1e-6, initializer_range=0.2,
    ))  # fmt: skip
    tokenizer.save(folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    save_huggingface(model, folder, eos_token_ids=[tokenizer.im_end_id, tokenizer.eos_id])
    return folder
