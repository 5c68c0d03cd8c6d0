"""What the RL tests share: a model of a few thousand parameters, a tokenizer of letters, a job."""

from pathlib import Path

from k2core.model.config import ModelConfig
from k2core.model.transformer import Transformer
from k2core.optim.kinds.muonclip import MuonClipConfig
from k2core.optim.muonclip import MuonClip
from k2core.rl.config import RLConfig
from k2core.stage import Job
from k2core.training.checkpoint import CheckpointConfig
from k2core.training.spikes import SpikeConfig

CHECKPOINT = CheckpointConfig(keep=2, permanent_every=0, mirror="", resume_from="", accept=[])
SPIKES = SpikeConfig(window=128, min_history=64, deviations=6.0, max_in_a_row=3)

VOCAB = 8


class CharTokenizer:
    """Ids 5 to 7 are letters, 1 ends a turn."""

    im_end_id = 1

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - 92 for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join("<|im_end|>" if number == self.im_end_id else chr(number + 92) for number in ids)

    decode_reply = decode


def micro_model() -> Transformer:
    return Transformer(
        ModelConfig(
            vocab_size=VOCAB, hidden_size=16, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=2,
            num_attention_heads=2, attention="mla",
            q_lora_rank=8, kv_lora_rank=8, qk_nope_head_dim=4, qk_rope_head_dim=4, v_head_dim=8,
            n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1, first_k_dense_replace=1,
            routed_scaling_factor=1.0, rope_theta=10000.0, rope_scaling=None, max_position_embeddings=64,
            rms_norm_eps=1e-6, initializer_range=0.2,
        )
    )  # fmt: skip


def micro_optimizer(model: Transformer) -> MuonClip:
    return MuonClip(
        model,
        MuonClipConfig(
            muon_lr=0.02, adamw_lr=0.02, momentum=0.95, weight_decay=0.0, adamw_beta1=0.9, adamw_beta2=0.95,
            adamw_eps=1e-8, max_grad_norm=1.0, qk_clip_threshold=100.0, router_bias_rate=0.001,
        ),
    )  # fmt: skip


def micro_config(**changes) -> RLConfig:
    settings = dict(
        pool={}, iterations=4, prompts=4, samples=4, minibatches=1, passes=1, objective="k2", baseline="mean", tau=0.1,
        muon_lr=0.02, adamw_lr=0.02, temperature_start=1.0, temperature_end=1.0, rollouts={"engine": "embedded"},
        token_budget=None, replay_routes=False, repetition=None, overlong_reward=0.0, length_weight=0.0, length_from=0,
        probe_samples=2, lowest_rate=0.0, highest_rate=1.0, success_momentum=0.5, success_floor=0.05, ptx_weight=0.1,
        ptx_rows=1, critique_every=2, critique_prompts=0, critique_weight=0.5, critique_heldout=4, critique_pairs=0,
        critique_least=0.0, context=32, microbatch_rows=4, checkpoint_every=2, log_every=1,
    )  # fmt: skip
    return RLConfig(**(settings | changes))


def job_in(scratch: Path) -> Job:
    scratch.mkdir(parents=True, exist_ok=True)
    return Job("test", scratch, None)
