"""What RL needs of a GPU to sample: each process of stage `rl` holds a whole copy of the policy beside its states."""

from __future__ import annotations

from k2core.inference.responder import SAMPLER_BATCH
from k2core.model.counts import count
from k2core.planning.activations import Activations
from k2core.planning.jobs import Jobs
from k2core.planning.staged import mesh_of
from k2core.planning.today import FP32
from k2core.rl.config import RLConfig


def needs(jobs: Jobs, rl: RLConfig) -> dict[str, float]:
    """Bytes by what for, on the fullest rank of the recipe's mesh for stage `rl`.

    The cache is that of the sampler's rows, all of them full. What passes through the copy is little and not counted.
    """
    mesh, model = mesh_of(jobs.parallel.of("rl")), jobs.model
    width = Activations(model, jobs.precision, 0, rl.context, 1).width
    trained = ["policy", "critic"] if rl.critique_prompts else ["policy"]
    found = {f"states of {' and '.join(trained)}": len(trained) * mesh.states(model)}
    if mesh.ranks > 1:  # a process alone samples from the weights that it trains
        found["a whole copy of the policy in fp32"] = FP32 * count(model).total
    slots = SAMPLER_BATCH * rl.context * model.num_hidden_layers
    return found | {f"a cache of {SAMPLER_BATCH} rows of {rl.context:,} tokens": width * slots * model.cache_width}
