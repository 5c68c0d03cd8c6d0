"""The meshes without a pipeline that `k2core/training/ranks.py` runs: FSDP2, groups that share experts or rows.

Weights are gathered for each micro-batch, a layer ahead, in the type that they multiply in; exchanges of experts and
rows do not overlap with work: their time is added. FSDP2 cuts each tensor along `cut_axis`; where the ranks do not
divide it, every rank sends a piece as large as the largest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from k2core.model.config import ModelConfig
from k2core.model.counts import Weights, count, cut_axis, weights
from k2core.planning.activations import Activations, muon_space
from k2core.planning.cluster import Cluster
from k2core.planning.jobs import Job, Jobs
from k2core.planning.mesh import (
    ALL_RANKS,
    Memory,
    Refused,
    Sent,
    all_to_all,
    fsdp_exchanges,
    muon_exchanges,
    near,
    ring,
    work_seconds,
)
from k2core.training.config import ParallelConfig
from k2core.training.dividing import DoesNotDivide, check_columns, check_model, rows_at_once, rows_each

FP32 = 4
BACKWARD = "a layer's backward pass"


@dataclass(frozen=True)
class Today:
    """A mesh of the recipe's section `parallel`, without a pipeline."""

    parallel: ParallelConfig

    @property
    def ranks(self) -> int:
        return self.parallel.processes

    @property
    def saving(self) -> bool:
        return self.parallel.recompute

    def described(self) -> str:
        own = self.parallel
        words = [f"FSDP2 over {own.shards}"] + [f"{own.replicas} replicas"] * (own.replicas > 1)
        words += [f"context {own.context}"]
        words += [f"micro-batches of {own.micro_batch_tokens:,}"]
        words += [f"experts over {own.experts}"] * (own.experts > 1) + ["layers recomputed"] * own.recompute
        return ", ".join(words)

    def check(self, jobs: Jobs, job: Job, cluster: Cluster) -> None:
        own = self.parallel
        if own.processes > cluster.gpus:
            raise Refused(f"{own.processes} processes are more than the cluster's {cluster.gpus} GPUs")
        try:
            check_model(own, jobs.model)
        except DoesNotDivide as error:
            raise Refused(error.reason) from None
        try:
            check_columns(job.context, own.context)
            self._rows(job)
        except DoesNotDivide as error:
            raise Refused(f"{job.name}: {error.reason}") from None

    def _rows(self, job: Job) -> int:
        """Rows of a micro-batch, which a context group shares."""
        own = self.parallel
        rows = rows_each(job.rows, own.groups)
        return rows_at_once(rows, job.context, own.micro_batch_tokens, own.context, own.pipeline)

    def _micro_batches(self, job: Job) -> int:
        return job.rows // self.parallel.groups // self._rows(job)

    def _part(self, weights: Weights) -> float:
        """Numbers of each tensor on the fullest rank: one axis is cut into equal pieces, rounded up."""
        shards = self.parallel.shards
        if self._whole_experts(weights):
            return weights.numbers / shards
        axis = weights.shape[cut_axis(weights.shape, shards)]
        return weights.numbers / axis * ceil(axis / shards)

    def _whole_experts(self, weights: Weights) -> bool:
        """Whether a rank has some experts, rather than a piece of each."""
        return self.parallel.experts > 1 and weights.group == "routed_experts"

    def _gathered(self, jobs: Jobs, padded: bool) -> Counter[str]:
        """Numbers that FSDP2 gathers, by group; `padded`: as they travel, each rank's piece as large as the largest."""
        found: Counter[str] = Counter()
        own = self.parallel
        for each in weights(jobs.model):
            if not self._whole_experts(each):
                found[each.group] += ceil(self._part(each) * own.shards if padded else each.numbers)
            elif own.copies > 1:
                found[each.group] += each.numbers // own.experts
        return found

    def _layer(self, jobs: Jobs, padded: bool) -> float:
        """The same of the largest layer."""
        model, found = jobs.model, self._gathered(jobs, padded)
        dense = found["dense"] / max(model.first_k_dense_replace, 1)
        experts = found["router"] + found["shared_experts"] + found["routed_experts"]
        sparse = experts / max(model.num_hidden_layers - model.first_k_dense_replace, 1)
        return found["attention"] / model.num_hidden_layers + max(dense, sparse)

    def states(self, model: ModelConfig) -> float:
        """Bytes of weights, gradients and optimiser on the rank that has most."""
        return sum(self._states(weights(model)).values())

    def _states(self, own: Iterable[Weights]) -> dict[str, float]:
        parts = [(each, self._part(each)) for each in own]
        held, others = sum(part for _, part in parts), sum(part for each, part in parts if not each.muon)
        return {"weights": FP32 * held, "gradients": FP32 * held, "optimiser": FP32 * (held + others)}

    def memory(self, jobs: Jobs, job: Job) -> Memory:
        own, model, R = self.parallel, jobs.model, self.ranks
        found, layers = count(model), model.num_hidden_layers
        parts = [(each, self._part(each)) for each in weights(model)]
        held = sum(part for _, part in parts)
        tokens = self._rows(job) * job.context / own.context
        part = Activations(model, jobs.precision, tokens, job.context, own.context, own.experts > 1)
        work = {"logits": part.logits, BACKWARD: part.backward(own.recompute)}
        passing: dict[str, float] = {}
        if R > 1:  # the root unit, with the head's gradient; a layer's weights and gradients, and copies to send
            width, padded = part.width, self._layer(jobs, padded=True)
            passing["gathered weights"] = width * (found.embedding + found.head) + FP32 * found.head
            work["logits"] += width * padded
            work[BACKWARD] += (width + FP32) * (self._layer(jobs, padded=False) + padded)
        if jobs.precision == "bf16":  # of what is not gathered, which comes in bf16
            whole: float = found.matrices + found.head if R == 1 else 0
            if own.experts > 1 and own.copies == 1:
                whole = found.routed_experts / own.experts
            passing["weights in bf16"] = 2 * whole / (layers if own.recompute else 1)
            work["logits"] += FP32 * found.head
        most = max(work, key=work.__getitem__)
        passing |= {"activations": part.kept(layers, own.recompute), most: work[most]}
        late = 0.0
        if self._micro_batches(job) == 1:  # gradients come as activations go
            gone = passing["activations"] - part.kept(1, own.recompute) + work[most] - work[BACKWARD]
            late = min(FP32 * (held - (found.head if R == 1 else 0)), gone)
        return Memory(
            states=self._states(weights(model)),
            passing=passing,
            update=muon_space(parts, jobs.precision),
            late=late,
        )

    def sent(self, jobs: Jobs, job: Job, cluster: Cluster) -> dict[str, Sent]:
        own, model, S = self.parallel, jobs.model, self.parallel.shards
        found, node = count(model), cluster.gpus_per_node
        gathered, copied = self._gathered(jobs, padded=True), 0
        if own.experts > 1:
            copied = gathered.pop("routed_experts", 0)
        spread = sum(gathered.values())
        tokens, passes = job.batch_tokens / self.ranks, 2 + own.recompute  # forward, backward, and forward again
        width = 2 if jobs.precision == "bf16" else FP32
        everyone, alike = near(S, 1, node), near(own.copies, own.experts, node)
        all_gathers = 2 * spread - found.embedding - found.head  # the root unit's are gathered once
        times = self._micro_batches(job)  # gathered in the type that they multiply in, reduced in fp32
        parts = [ring(times * (width * all_gathers + FP32 * spread), S, everyone)]
        parts.append(ring(times * (2 * width + FP32) * copied, own.copies, alike))
        if own.replicas > 1:
            held = sum(self._part(weight) for weight in weights(model))
            parts.append(ring(2 * FP32 * times * held, own.replicas, near(own.replicas, S, node)))
        sent = {"weights": Sent(sum(part.inside for part in parts), sum(part.between for part in parts))}
        if own.experts > 1:
            moved = 2 * tokens * model.num_experts_per_tok * model.hidden_size * width * passes
            layers = model.num_hidden_layers - model.first_k_dense_replace
            sent["experts"] = all_to_all(moved * layers, own.experts, near(own.experts, 1, node))
        if own.context > 1:
            whole = tokens * own.context * model.cache_width * width * passes * model.num_hidden_layers
            sent["rows"] = ring(whole, own.context, near(own.context, 1, node))
        matrices = found.matrices - found.routed_experts
        exchanged = [all_to_all(2 * FP32 * matrices / S, S, everyone)]
        if own.experts > 1:
            exchanged.append(all_to_all(2 * FP32 * found.routed_experts / S, own.copies, alike))
        sent["Muon"] = Sent(sum(part.inside for part in exchanged), sum(part.between for part in exchanged))
        return sent

    def exchanges(self, jobs: Jobs, job: Job) -> int:
        own, model = self.parallel, jobs.model
        if self.ranks == 1:
            return 0
        layers, passes = model.num_hidden_layers, 1 + own.recompute
        sparse = layers - model.first_k_dense_replace
        found = fsdp_exchanges(layers, sparse if own.experts > 1 and own.copies > 1 else 0)
        if own.replicas > 1:
            found += layers + 1
        found += self._row_exchanges(layers, sparse, passes)
        return self._micro_batches(job) * found + muon_exchanges(model, own.shards) + ALL_RANKS

    def _row_exchanges(self, layers: int, sparse: int, passes: int) -> int:
        """Of a micro-batch: sizes, tokens there and back, and their gradients; caches and their gradients."""
        experts = sparse * (3 * passes + 2) if self.parallel.experts > 1 else 0
        return experts + (layers * (passes + 1) if self.parallel.context > 1 else 0)

    def seconds(self, jobs: Jobs, job: Job, cluster: Cluster) -> float:
        times = {name: sent.seconds(cluster) for name, sent in self.sent(jobs, job, cluster).items()}
        work = work_seconds(jobs, job, cluster, self.ranks, jobs.precision)
        if cluster.overlap:
            work = max(work, times.pop("weights"))
        return work + sum(times.values()) + self.exchanges(jobs, job) * cluster.exchange_us / 1e6
