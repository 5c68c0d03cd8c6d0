"""The model's shape, under Hugging Face's `deepseek_v3` names (K2 §2.3)."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from k2core.recipe import Section


class YarnConfig(Section):
    """YaRN context extension (arXiv 2309.00071) as DeepSeek-V3 and K2 use it."""

    factor: float = Field(gt=1, description="how many times the context grows")
    beta_fast: float = Field(gt=0, description="rotations over the original context above which a frequency stays")
    beta_slow: float = Field(gt=0, description="rotations below which a frequency is divided by `factor`")
    mscale: float = Field(gt=0, description="magnitude scale of the rotated parts")
    mscale_all_dim: float = Field(gt=0, description="magnitude scale of all attention logits")
    original_max_position_embeddings: int = Field(ge=1, description="context before the extension, in tokens")

    @property
    def context(self) -> int:
        """Context after the extension, in tokens."""
        return round(self.factor * self.original_max_position_embeddings)


class ModelConfig(Section):
    """Section `model`: a mixture-of-experts transformer with multi-head latent attention."""

    vocab_size: int = Field(ge=2, description="token ids; must equal the tokenizer's")
    hidden_size: int = Field(ge=1, description="width of the residual stream")
    intermediate_size: int = Field(ge=1, description="inner width of the dense layers' feed-forward")
    moe_intermediate_size: int = Field(ge=1, description="inner width of one expert")
    num_hidden_layers: int = Field(ge=1, description="layers")
    num_attention_heads: int = Field(ge=1, description="attention heads")
    q_lora_rank: int = Field(ge=1, description="rank of the compressed queries")
    kv_lora_rank: int = Field(ge=1, description="rank of the compressed keys and values; they are what is cached")
    qk_nope_head_dim: int = Field(ge=1, description="query and key width a head without position")
    qk_rope_head_dim: int = Field(ge=2, multiple_of=2, description="query and key width with rotary position")
    v_head_dim: int = Field(ge=1, description="value width a head")
    n_routed_experts: int = Field(ge=2, description="routed experts a layer")
    num_experts_per_tok: int = Field(ge=1, description="routed experts that a token visits")
    n_shared_experts: int = Field(ge=1, description="experts that every token visits")
    first_k_dense_replace: int = Field(ge=0, description="leading layers with a dense feed-forward instead of experts")
    routed_scaling_factor: float = Field(gt=0, description="factor on the routed experts' normalised weights")
    rope_theta: float = Field(gt=1, description="base of the rotary frequencies")
    rope_scaling: YarnConfig | None = Field(description="YaRN, or null for the trained context as it is")
    max_position_embeddings: int = Field(ge=1, description="context in tokens, after any extension")
    rms_norm_eps: float = Field(gt=0, description="epsilon of the residual stream's RMS norms")
    initializer_range: float = Field(gt=0, description="standard deviation of the initial weights")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_experts_per_tok > self.n_routed_experts:
            raise ValueError(
                f"num_experts_per_tok is {self.num_experts_per_tok}, but there are only {self.n_routed_experts} "
                "routed experts (n_routed_experts)"
            )
        if self.first_k_dense_replace > self.num_hidden_layers:
            raise ValueError(
                f"first_k_dense_replace is {self.first_k_dense_replace}, but there are only "
                f"{self.num_hidden_layers} layers (num_hidden_layers)"
            )
        if self.rope_scaling and self.rope_scaling.context != self.max_position_embeddings:
            raise ValueError(
                f"max_position_embeddings is {self.max_position_embeddings}, but rope_scaling reaches "
                f"{self.rope_scaling.context} (factor × original_max_position_embeddings); make them equal"
            )
        return self

    def with_rope_scaling(self, rope_scaling: YarnConfig | None) -> ModelConfig:
        """The same model with another context extension; `max_position_embeddings` follows."""
        if rope_scaling:
            context = rope_scaling.context
        elif self.rope_scaling:
            context = self.rope_scaling.original_max_position_embeddings
        else:
            context = self.max_position_embeddings
        return self.model_copy(update={"rope_scaling": rope_scaling, "max_position_embeddings": context})

    @property
    def qk_head_dim(self) -> int:
        """Query and key width a head."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim
