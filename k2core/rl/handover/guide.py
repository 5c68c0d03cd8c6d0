"""The page of a handed-over folder: what to tell verl and slime, with the recipe's numbers."""

from __future__ import annotations

from k2core.rl.config import RLConfig

PAGE = """# Prompts, rewards and K2's objective for verl and slime

{rows}. Both frameworks need this project on PYTHONPATH, and the exported model (`MODEL`: a folder as the stage
`export` writes it).

verl (checked against 0.9.1):

```sh
python -m verl.trainer.main_ppo \\
  data.train_files=HERE/train.parquet data.val_files=HERE/heldout.parquet \\
  data.train_batch_size={prompts} data.max_prompt_length={prompt_tokens} data.max_response_length={response_tokens} \\
  actor_rollout_ref.model.path=MODEL actor_rollout_ref.model.external_lib=k2core.rl.handover.verl \\
  actor_rollout_ref.actor.policy_loss.loss_mode=k2 actor_rollout_ref.actor.policy_loss.ppo_kl_coef={tau:g} \\
  actor_rollout_ref.actor.ppo_mini_batch_size={minibatch} actor_rollout_ref.actor.ppo_epochs={passes} \\
  actor_rollout_ref.rollout.n={samples} actor_rollout_ref.rollout.temperature={temperature:g} \\
  algorithm.adv_estimator=grpo algorithm.norm_adv_by_std_in_grpo=False \\
  reward.reward_manager.source=importlib reward.reward_manager.name=K2Rewards \\
  reward.reward_manager.module.path=pkg://k2core.rl.handover.verl
```

slime (its options of August 2026; model and cluster options are yours):

```sh
python train.py --hf-checkpoint MODEL --prompt-data HERE/train.parquet \\
  --input-key prompt --metadata-key extra_info --apply-chat-template \\
  --custom-rm-path k2core.rl.handover.slime.reward \\
  --loss-type custom_loss --custom-loss-function-path k2core.rl.handover.slime.loss --kl-loss-coef {tau:g} \\
  --advantage-estimator grpo --disable-grpo-std-normalization \\
  --rollout-batch-size {prompts} --n-samples-per-prompt {samples} --num-steps-per-rollout {minibatches} \\
  --rollout-max-response-len {response_tokens} --rollout-temperature {temperature:g}
```

Not handed over, because the frameworks have no place for it: the loss on supervised dialogues (PTX), the optimiser's
fresh start in each iteration, the curriculum, the critic, the temperature's decay and the baseline log_mean_exp.
"""


def guide(config: RLConfig, rows: str, response_tokens: int) -> str:
    """The page.

    Args:
        rows: what is in the folder.
        response_tokens: the largest budget of an environment.
    """
    return PAGE.format(
        rows=rows, prompts=config.prompts, samples=config.samples, tau=config.tau, passes=config.passes,
        minibatch=-(-config.prompts // config.minibatches), minibatches=config.minibatches,
        temperature=config.temperature_start, response_tokens=response_tokens,
        prompt_tokens=config.context - response_tokens,
    )  # fmt: skip
