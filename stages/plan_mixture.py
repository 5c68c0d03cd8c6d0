"""The plan of the mixture before anything is trained: what each phase takes of each domain, and how often it repeats.

`manifest.yaml` is for a person to read and to compare between two commits. The plan warns of documents that come more
than `max_epochs` times. Each phase's part is a file of its own as well, on which the phase depends: no training starts
before the whole plan is possible, and another phase's change does not repeat it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, create_model

from k2core.recipe import RecipeError, Section
from k2core.stage import Job, Metrics, main
from k2core.training.phases import Extension, Phase

SECTION = "plan_mixture"


class Params(Section):
    """When to warn."""

    max_epochs: float = Field(
        gt=0, description="passes through a domain's documents, over all phases, beyond which the plan warns"
    )


class Pretrain(Section):
    """The phases of pre-training, in their order; `dvc.yaml` says which model each starts from."""

    @classmethod
    def for_value(cls, value: dict[str, Any]) -> type[Self]:
        """With a field for each phase that there is."""
        if not value:
            raise RecipeError("no phase; give one at least")
        for name in value:
            if not isinstance(name, str) or hasattr(cls, name):
                raise RecipeError(f"{name}: a phase cannot have this name; choose another word")
        fields: dict[str, Any] = dict.fromkeys(value, (Phase, ...))
        return create_model(cls.__name__, __base__=cls, __module__=cls.__module__, __doc__=cls.__doc__, **fields)

    @property
    def phases(self) -> dict[str, Phase]:
        """Name → phase, in the order of the recipe."""
        return {name: getattr(self, name) for name in type(self).model_fields}


def run(params: Params, pretrain: Pretrain, extend_context: Extension, tokens: Path, out: Path, job: Job) -> Metrics:
    """Write `manifest.yaml` and `<phase>.yaml`; the figures are the same numbers."""
    import yaml

    from k2core.data.mixture.plan import figures, manifest, plan_phase
    from k2core.data.rows.shards import TokenShards
    from k2core.storage import write_text

    shards = TokenShards(tokens)
    plans: dict[str, dict] = {}
    epochs: dict[str, float] = {}
    for name, phase in (pretrain.phases | {"extend_context": extend_context}).items():
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
    return figures(content)


if __name__ == "__main__":
    main(run, SECTION)
