"""The mesh that K2 ran (arXiv 2507.20534 §2.4.2), as arithmetic.

`k2core/training/pipeline.py` runs such stages and expert groups, but keeps fp32 weights, cut over a stage's ranks, and
gathers them for a step. What follows is K2's way.

Pipeline stages with interleaved 1F1B, experts shared out within a stage, rows shared where they are long, ZeRO-1: bf16
weights and fp32 gradients of a stage on each of its ranks (of the experts, a rank's own), optimiser state cut over the
copies or offloaded. Layers are recomputed whole; K2 recomputes less, and offloads activations. Exchanges hide behind
the work, so a step takes the longest of work (with the pipeline's bubble) and each link. The optimiser's shards
are whole matrices.
"""

from __future__ import annotations

from pydantic import Field

from k2core.model.counts import count, weights
from k2core.planning.activations import Activations, muon_space
from k2core.planning.cluster import Cluster
from k2core.planning.jobs import Job, Jobs
from k2core.planning.mesh import (
    ALL_RANKS,
    Memory,
    Refused,
    Sent,
    all_to_all,
    muon_exchanges,
    near,
    ring,
    work_seconds,
)
from k2core.recipe import Section
from k2core.training.config import ParallelConfig
from k2core.training.dividing import DoesNotDivide, check_model

WEIGHT, GRADIENT, STATE = 2, 4, 4
"""Bytes of a weight in bf16, of its gradient in fp32, and of each number that the optimiser keeps."""
PASSES = 3
"""Exchanges of a micro-batch: forward, backward, and forward again for the layers recomputed."""


class PipelinedMesh(Section):
    """`--mesh`: how a cluster's GPUs are divided."""

    pipeline: int = Field(default=1, ge=1, description="pipeline stages")
    virtual: int = Field(default=1, ge=1, description="pieces of the model on each stage (interleaved 1F1B)")
    experts: int = Field(default=1, ge=1, description="ranks of a stage that share its experts out")
    micro_batch_tokens: int = Field(
        default=8192, ge=1, description="tokens that a rank handles at once; longer rows are shared by context ranks"
    )
    offload: bool = Field(default=False, description="keep optimiser state in the nodes' memory")
    gpus: int = Field(ge=1, description="GPUs in all")

    @property
    def ranks(self) -> int:
        return self.gpus

    @property
    def saving(self) -> bool:
        return self.offload

    @property
    def stage(self) -> int:
        """Ranks of a stage."""
        return self.gpus // self.pipeline

    def described(self) -> str:
        words = [f"pipeline {self.pipeline} × {self.virtual}", f"experts over {self.experts}", f"{self.gpus} GPUs"]
        words += [f"micro-batches of {self.micro_batch_tokens:,}"] + ["optimiser offloaded"] * self.offload
        return ", ".join(words)

    def check(self, jobs: Jobs, job: Job, cluster: Cluster) -> None:
        model, shared = jobs.model, self._shared(job)
        if self.gpus > cluster.gpus:
            raise Refused(f"{self.gpus} GPUs are more than the cluster's {cluster.gpus}")
        if self.gpus % self.pipeline:
            raise Refused(f"{self.gpus} GPUs cannot be divided into {self.pipeline} equal stages")
        if self.stage % self.experts:
            raise Refused(f"a stage's {self.stage} ranks are not a multiple of the {self.experts} that share experts")
        own = ParallelConfig.model_construct(
            processes=self.gpus, pipeline=self.pipeline, virtual=self.virtual, experts=self.experts, replicas=1,
            context=1, micro_batch_tokens=self.micro_batch_tokens, recompute=True, launcher="",
        )  # fmt: skip
        try:
            check_model(own, model)
        except DoesNotDivide as error:
            raise Refused(error.reason) from None
        if self.stage % shared or job.context % shared:
            raise Refused(f"{job.name}: a stage's {self.stage} ranks are no multiple of the {shared} that share a row")
        groups, rows = self.stage // shared, self._rows(job)
        if job.rows % (groups * rows):
            raise Refused(
                f"{job.name}: {job.rows} rows per step cannot be shared out over {groups} groups in micro-batches of "
                f"{rows} rows"
            )
        if self._micro_batches(job) % self.pipeline:
            raise Refused(
                f"{job.name}: {self._micro_batches(job)} micro-batches are not a multiple of {self.pipeline} stages"
            )

    def _shared(self, job: Job) -> int:
        """Ranks that share a row."""
        return -(-job.context // self.micro_batch_tokens)

    def _rows(self, job: Job) -> int:
        return max(1, min(job.rows, self.micro_batch_tokens // job.context))

    def _micro_batches(self, job: Job) -> int:
        return job.rows * self._shared(job) // self.stage // self._rows(job)

    def bubble(self, job: Job) -> float:
        """Idle time as a share of the work."""
        return (self.pipeline - 1) / (self.virtual * self._micro_batches(job))

    def _stages(self, jobs: Jobs) -> list[tuple[float, float, float]]:
        """Of the first, an inner and the last stage: matrices outside experts, experts of all ranks, and AdamW's.

        Layers are as equal as can be; the first and the last stage, with embedding and head, have the fewer.
        """
        found, model = count(jobs.model), jobs.model
        fewest, more = divmod(model.num_hidden_layers, self.pipeline)
        inner, ends = fewest + bool(more), fewest + (more > self.pipeline - 2)
        dense = min(model.first_k_dense_replace, ends)
        layers = model.num_hidden_layers - model.first_k_dense_replace
        attention = found.attention / model.num_hidden_layers
        others = (found.router + found.shared_experts) / max(layers, 1)
        experts = found.routed_experts / max(layers, 1)
        each = found.dense / max(model.first_k_dense_replace, 1)
        if self.pipeline == 1:
            return [(found.matrices - found.routed_experts, found.routed_experts, found.total - found.matrices)]
        return [
            (ends * attention + dense * each + (ends - dense) * others, (ends - dense) * experts, found.embedding),
            (inner * (attention + others), inner * experts, 0.0),
            (ends * (attention + others), ends * experts, found.head),
        ]

    def memory(self, jobs: Jobs, job: Job) -> Memory:
        return max((self._memory(jobs, job, place) for place in range(len(self._stages(jobs)))), key=lambda m: m.peak)

    def _memory(self, jobs: Jobs, job: Job, place: int) -> Memory:
        model, stages = jobs.model, self._stages(jobs)
        matrices, experts, others = stages[place]
        own = matrices + others + experts / self.experts
        state = STATE * (2 * (matrices + experts) + 3 * others) / self.stage  # with fp32 weights
        layers = -(-model.num_hidden_layers // self.pipeline)
        shared, rows = self._shared(job), self._rows(job)
        part = Activations(model, "bf16", rows * job.context / shared, job.context, shared, self.experts > 1)
        flying = min(self._micro_batches(job), self.pipeline + (self.pipeline - 1) / self.virtual if place == 0 else
                     self.pipeline)  # fmt: skip
        passing = {"activations": flying * layers * part.inputs + part.backward(recompute=True)}
        if place == len(stages) - 1:
            passing["logits"] = part.logits
        return Memory(
            states={"weights": WEIGHT * own, "gradients": GRADIENT * own, "optimiser": 0.0 if self.offload else state},
            passing=passing,
            update=muon_space([(each, each.numbers / self.gpus) for each in weights(model)], "bf16"),
            host=state if self.offload else 0.0,
        )

    def sent(self, jobs: Jobs, job: Job, cluster: Cluster) -> dict[str, Sent]:
        model, node = jobs.model, cluster.gpus_per_node
        tokens, shared = job.batch_tokens / self.stage, self._shared(job)
        layers = (model.num_hidden_layers - model.first_k_dense_replace) / self.pipeline
        sent = {}
        if self.experts > 1:
            moved = 2 * tokens * model.num_experts_per_tok * model.hidden_size * WEIGHT * PASSES * layers
            sent["experts"] = all_to_all(moved, self.experts, near(self.experts, 1, node))
        if self.pipeline > 1:
            moved = 2 * tokens * model.hidden_size * WEIGHT * self.virtual
            sent["pipeline"] = Sent(0.0, moved) if self.stage * 2 > node else Sent(moved, 0.0)
        if shared > 1:
            whole = tokens * shared * model.cache_width * WEIGHT * PASSES * model.num_hidden_layers / self.pipeline
            sent["rows"] = ring(whole, shared, near(shared, 1, node))
        matrices, experts, others = max(self._stages(jobs), key=sum)
        both, copies = WEIGHT + GRADIENT, self.stage // self.experts  # weights gathered, gradients reduced
        parts = (
            ring(both * (matrices + others), self.stage, near(self.stage, 1, node)),
            ring(both * experts / self.experts, copies, near(copies, self.experts, node)),
        )
        sent["ZeRO-1"] = Sent(sum(part.inside for part in parts), sum(part.between for part in parts))
        return sent

    def exchanges(self, jobs: Jobs, job: Job) -> int:
        model, layers = jobs.model, -(-jobs.model.num_hidden_layers // self.pipeline)
        each = (3 * PASSES - 1) * layers if self.experts > 1 else 0
        each += PASSES * layers if self._shared(job) > 1 else 0
        each += 4 * self.virtual if self.pipeline > 1 else 0
        return self._micro_batches(job) * each + 2 * layers + muon_exchanges(model) + ALL_RANKS

    def seconds(self, jobs: Jobs, job: Job, cluster: Cluster) -> float:
        work = work_seconds(jobs, job, cluster, self.gpus, "bf16") * (1 + self.bubble(job))
        sent = self.sent(jobs, job, cluster).values()
        inside = Sent(inside=sum(each.inside for each in sent)).seconds(cluster)
        between = Sent(between=sum(each.between for each in sent)).seconds(cluster)
        return max(work, inside, between) + self.exchanges(jobs, job) * cluster.exchange_us / 1e6
