"""The model's shape, under Hugging Face's `deepseek_v3` names (K2 §2.3)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from k2core.recipe import Section


class YarnConfig(Section):
    """YaRN context extension (arXiv 2309.00071) as DeepSeek-V3 and K2 use it."""

    factor: float = Field(gt=1, description="how many times the context grows")
    beta_fast: float = Field(gt=0, description="rotations over the original context above which a frequency is kept")
    beta_slow: float = Field(gt=0, description="rotations below which a frequency is divided by `factor`")
    mscale: float = Field(gt=0, description="magnitude scale of the rotated parts")
    mscale_all_dim: float = Field(gt=0, description="magnitude scale of all attention logits")
    original_max_position_embeddings: int = Field(ge=1, description="context before the extension, in tokens")

    @property
    def context(self) -> int:
        """Context after the extension, in tokens."""
        return round(self.factor * self.original_max_position_embeddings)


class ModelConfig(Section):
    """Section `model`: K2's transformer, a mixture of experts with multi-head latent attention, and two variants of it.

    `attention: mha` is plain multi-head attention, `first_k_dense_replace` = `num_hidden_layers` a dense model (in
    which the experts' keys have no effect).
    """

    vocab_size: int = Field(ge=2, description="token ids; must equal the tokenizer's")
    hidden_size: int = Field(ge=1, description="width of the residual stream")
    intermediate_size: int = Field(ge=1, description="inner width of the dense layers' feed-forward")
    moe_intermediate_size: int = Field(ge=1, description="inner width of one expert")
    num_hidden_layers: int = Field(ge=1, description="layers")
    num_attention_heads: int = Field(ge=1, description="attention heads")
    attention: Literal["mla", "mha"] = Field(
        description="mla: multi-head latent attention, K2's; mha: plain multi-head"
    )
    q_lora_rank: int | None = Field(ge=1, description="rank of the compressed queries; null with mha")
    kv_lora_rank: int | None = Field(ge=1, description="rank of the compressed, cached keys and values; null with mha")
    qk_nope_head_dim: int = Field(ge=0, description="query and key width per head without position; 0 only with mha")
    qk_rope_head_dim: int = Field(ge=2, multiple_of=2, description="query and key width with rotary position")
    v_head_dim: int = Field(ge=1, description="value width per head")
    n_routed_experts: int = Field(ge=2, description="routed experts per layer")
    num_experts_per_tok: int = Field(ge=1, description="routed experts that a token visits")
    n_shared_experts: int = Field(ge=1, description="experts that every token visits")
    first_k_dense_replace: int = Field(ge=0, description="leading layers with a dense feed-forward instead of experts")
    routed_scaling_factor: float = Field(gt=0, description="factor on the routed experts' normalised weights")
    rope_theta: float = Field(gt=1, description="base of the rotary frequencies")
    rope_scaling: YarnConfig | None = Field(description="YaRN; null keeps the trained context")
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
        ranks = {"q_lora_rank": self.q_lora_rank, "kv_lora_rank": self.kv_lora_rank}
        if self.attention == "mla" and None in ranks.values():
            name = next(name for name, rank in ranks.items() if rank is None)
            raise ValueError(f"attention mla needs {name}; give a rank, or set attention to mha")
        if self.attention == "mla" and not self.qk_nope_head_dim:
            raise ValueError(
                "attention mla needs qk_nope_head_dim: its compressed keys have no position; make it positive"
            )
        if self.attention == "mha" and any(ranks.values()):
            name, rank = next((name, rank) for name, rank in ranks.items() if rank)
            raise ValueError(f"{name} is {rank}, but attention mha compresses nothing; set it to null")
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
        """Query and key width per head."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def latent_ranks(self) -> tuple[int, int]:
        """`q_lora_rank` and `kv_lora_rank`, which attention mla has.

        Raises:
            ValueError: the attention is mha.
        """
        if self.q_lora_rank is None or self.kv_lora_rank is None:
            raise ValueError(f"attention {self.attention} compresses nothing and has no ranks")
        return self.q_lora_rank, self.kv_lora_rank

    @property
    def cache_width(self) -> int:
        """Numbers that decoding keeps per token and layer, for all heads."""
        if self.attention == "mla":
            return self.latent_ranks[1] + self.qk_rope_head_dim
        return self.num_attention_heads * (self.qk_head_dim + self.v_head_dim)
