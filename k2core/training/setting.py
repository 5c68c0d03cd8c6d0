"""What surrounds any training: it may change how the training proceeds, never what is trained."""

from __future__ import annotations

from dataclasses import dataclass, field

from k2core.stage import Job
from k2core.training.checkpoint import CheckpointConfig
from k2core.training.ranks import Ranks
from k2core.training.spikes import SpikeConfig


@dataclass(frozen=True)
class Setting:
    """The stage's job, the sections of the recipe that all trainings share, and the processes.

    Attributes:
        micro_batch_tokens: tokens handled at once, gradients of more are accumulated; None: all of a process's rows at
            once.
    """

    job: Job
    spikes: SpikeConfig
    checkpoint: CheckpointConfig
    ranks: Ranks = field(default_factory=Ranks)
    micro_batch_tokens: int | None = None
