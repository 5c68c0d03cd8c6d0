"""The exported model's card: what it is, its scores, what not to expect of it, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from k2core.figures.tables import table

if TYPE_CHECKING:
    from k2core.model.config import ModelConfig


def model_card(
    name: str, config: ModelConfig, figures: Mapping[str, float], scorecard: Mapping[str, float], data_card: str
) -> str:
    """The README of the exported folder.

    Args:
        figures: what the export found: parameters and the largest difference of a logit.
        scorecard: of the final model.
        data_card: file beside it.
    """
    yarn = config.rope_scaling
    context = f"{config.max_position_embeddings} tokens"
    if yarn:
        context += f" (YaRN ×{yarn.factor:g} from {yarn.original_max_position_embeddings})"
    rows = [
        ("Architecture", "`deepseek_v3`: multi-head latent attention, mixture of experts with a shared expert"),
        ("Parameters", f"{figures['export/parameters']:,.0f}"),
        ("Activated per token", f"{figures['export/activated_parameters']:,.0f}"),
        ("Layers", f"{config.num_hidden_layers}, the first {config.first_k_dense_replace} dense"),
        ("Routed experts per token", f"{config.num_experts_per_tok} of {config.n_routed_experts}"),
        ("Shared experts", f"{config.n_shared_experts}"),
        ("Context", context),
        ("Vocabulary", f"{config.vocab_size:,}"),
    ]
    overall = [(f"`{key}`", f"{value:.4g}") for key, value in scorecard.items() if key.count("/") == 1]
    by_kind = [(f"`{key}`", f"{value:.4g}") for key, value in scorecard.items() if key.count("/") > 1]
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [deepseek_v3, kimi-k2-recipe]
---
# {name}

Trained with Kimi K2's recipe (arXiv 2507.20534): pre-training in phases with MuonClip, YaRN, supervised fine-tuning
on agentic dialogues, reinforcement learning. A research artefact: at small sizes it shows that the recipe works and
is of no use as an assistant.

{table(("", ""), rows)}

## Scorecard
On held-out data, never trained on:

{table(("score", "value"), overall)}

<details><summary>By kind</summary>

{table(("score", "value"), by_kind)}

</details>

## Limits
{"".join(f"- {limit}" + chr(10) for limit in limits(config, scorecard))}
## Lineage
Pre-training in phases, `extend_context` (YaRN), `sft`, `rl`, `export`: the recipe and the inputs of each stage are in
the project's `dvc.lock`, by digest. What it was trained on is in [the data card]({data_card}). In the project:

```sh
python -m k2core.lineage models/export                # the stages that it comes from
python -m k2core.lineage models/export --sources      # licences and origins of its documents
```

## Use
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model, tokenizer = (c.from_pretrained("PATH") for c in (AutoModelForCausalLM, AutoTokenizer))
messages = [{{"role": "user", "content": "Hello"}}]
inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))
```
transformers' logits were compared with the trained model's on export: they differ by at most
{figures["export/max_logit_difference"]:.1e}.
"""


def limits(config: ModelConfig, scorecard: Mapping[str, float]) -> list[str]:
    """What a user must not expect, a sentence each, with the figures that say so."""
    said = [
        "It was never trained to be safe: it declines what a dialogue's policy forbids, and nothing else.",
        f"It was trained on at most {config.max_position_embeddings:,} tokens at once.",
    ]
    sentences = {
        "dialogues/pass_hat_1": "Of held-out dialogues with tools it passes {:.0%}, sampled at temperature 1.",
        "tool_calls/exact": "Of the calls that are due, {:.0%} are exact without the Enforcer.",
        "tool_calls/called_when_none_due": "Where no call is due it calls in {:.0%} of the cases.",
        "heldout/bits_per_byte": "It needs {:.2f} bits for a byte of held-out text.",
    }
    return said + [sentence.format(scorecard[key]) for key, sentence in sentences.items() if key in scorecard]
