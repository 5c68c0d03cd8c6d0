"""The plan of the mixture before anything is trained: what each phase takes of each domain, and how often it repeats.

`manifest.yaml` is for a person to read and to compare between two commits. Documents that come more often than
`max_epochs` times are warned of. Each phase's part stands in a file of its own as well, on which the phase depends: no
training starts before the whole plan is possible, and another phase's change does not repeat it.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from k2core.recipe import Section
from k2core.stage import Job, Metrics, main
from k2core.training.phases import Extension, Phase

SECTION = "plan_mixture"


class Params(Section):
    """When to warn."""

    max_epochs: float = Field(
        gt=0, description="passes through a domain's documents, over all phases, beyond which the plan warns"
    )


class Pretrain(Section):
    """The phases of pre-training, in their order."""

    stable: Phase = Field(description="constant learning rate")
    decay: Phase = Field(description="the learning rate falls")
    anneal: Phase = Field(description="high-quality documents, and questions with answers")
    long: Phase = Field(description="the model's full context")


def run(params: Params, pretrain: Pretrain, extend_context: Extension, tokens: Path, out: Path, job: Job) -> Metrics:
    """Write `manifest.yaml` and `<phase>.yaml`; the figures are the same numbers."""
    import yaml

    from k2core.data.mixture.plan import figures, manifest, plan_phase
    from k2core.data.rows.shards import TokenShards
    from k2core.storage import write_text

    shards = TokenShards(tokens)
    plans: dict[str, dict] = {}
    epochs: dict[str, float] = {}
    phases: dict[str, Phase] = {name: getattr(pretrain, name) for name in Pretrain.model_fields}
    for name, phase in (phases | {"extend_context": extend_context}).items():
        plans[name] = plan_phase(
            shards, weights=phase.mixture, select=phase.select, tokens=phase.steps * phase.batch_tokens,
            epochs_before=epochs,
        )  # fmt: skip
        epochs |= {domain: planned["epochs_after"] for domain, planned in plans[name]["domains"].items()}
    content = manifest(shards, plans, params.max_epochs)
    for warning in content["warnings"]:
        job.say(f"warning: {warning}")
    for name, part in {"manifest": content, **content["phases"]}.items():
        write_text(out / f"{name}.yaml", yaml.safe_dump(part, sort_keys=True, default_flow_style=None, width=120))
    job.artifact(out / "manifest.yaml")
    return figures(content)


if __name__ == "__main__":
    main(run, SECTION)
