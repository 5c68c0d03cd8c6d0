"""The mesh that `k2core/training/ranks.py` runs: FSDP2 over all ranks, experts over all ranks, shared rows.

Weights are gathered in fp32 for each micro-batch, a layer ahead; exchanges of experts and rows do not overlap with
work: their time is added. FSDP2 cuts each tensor along `cut_axis`; where the ranks do not divide it, every rank sends a
piece as large as the largest.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import ceil

from k2core.model.counts import Weights, count, cut_axis, weights
from k2core.planning.activations import Activations, muon_space
from k2core.planning.cluster import Cluster
from k2core.planning.jobs import Job, Jobs
from k2core.planning.mesh import Memory, Refused, Sent, all_to_all, near, ring, work_seconds
from k2core.training.config import ParallelConfig

FP32 = 4


@dataclass(frozen=True)
class Today:
    """A mesh of the recipe's section `parallel`."""

    parallel: ParallelConfig

    @property
    def ranks(self) -> int:
        return self.parallel.processes

    @property
    def saving(self) -> bool:
        return self.parallel.recompute

    def described(self) -> str:
        own = self.parallel
        words = [f"FSDP2 over {own.processes}", f"context {own.context}"]
        words += [f"micro-batches of {own.micro_batch_tokens:,}"]
        words += ["experts over all"] * own.expert_parallel + ["layers recomputed"] * own.recompute
        return ", ".join(words)

    def check(self, jobs: Jobs, job: Job, cluster: Cluster) -> None:
        own, experts = self.parallel, jobs.model.n_routed_experts
        if own.processes > cluster.gpus:
            raise Refused(f"{own.processes} processes are more than the cluster's {cluster.gpus} GPUs")
        if own.expert_parallel and experts % own.processes:
            raise Refused(f"{experts} routed experts cannot be shared out equally over {own.processes} processes")
        if own.context > 1 and job.context % (2 * own.context):
            raise Refused(f"{job.name}: rows of {job.context} tokens cannot be cut into 2 × {own.context} equal chunks")
        groups = own.processes // own.context
        if job.rows % groups:
            raise Refused(f"{job.name}: {job.rows} rows per step cannot be shared out over {groups} groups equally")
        if (job.rows // groups) % self._rows(job):
            raise Refused(
                f"{job.name}: {job.rows // groups} rows per step and group are not a multiple of the "
                f"{self._rows(job)} that micro_batch_tokens {own.micro_batch_tokens} makes"
            )

    def _rows(self, job: Job) -> int:
        """Rows of a micro-batch, which a context group shares (`Trainer._share_out`)."""
        own = self.parallel
        return min(job.rows * own.context // own.processes, max(1, own.micro_batch_tokens * own.context // job.context))

    def _micro_batches(self, job: Job) -> int:
        return job.rows * self.parallel.context // self.parallel.processes // self._rows(job)

    def _part(self, weights: Weights) -> float:
        """Numbers of each tensor on the fullest rank: one axis is cut into equal pieces, rounded up."""
        axis = weights.shape[cut_axis(weights.shape, self.ranks)]
        return weights.numbers / axis * ceil(axis / self.ranks)

    def _gathered(self, jobs: Jobs, padded: bool) -> Counter[str]:
        """Numbers that FSDP2 gathers, by group; `padded`: as they travel, each rank's piece as large as the largest."""
        found: Counter[str] = Counter()
        for each in weights(jobs.model):
            if not (self.parallel.expert_parallel and each.group == "routed_experts"):
                found[each.group] += ceil(self._part(each) * self.ranks if padded else each.numbers)
        return found

    def _layer(self, jobs: Jobs, padded: bool) -> float:
        """The same of the largest layer."""
        model, found = jobs.model, self._gathered(jobs, padded)
        dense = found["dense"] / max(model.first_k_dense_replace, 1)
        experts = found["router"] + found["shared_experts"] + found["routed_experts"]
        sparse = experts / max(model.num_hidden_layers - model.first_k_dense_replace, 1)
        return found["attention"] / model.num_hidden_layers + max(dense, sparse)

    def memory(self, jobs: Jobs, job: Job) -> Memory:
        own, model, R = self.parallel, jobs.model, self.ranks
        found, layers = count(model), model.num_hidden_layers
        parts = [(each, self._part(each)) for each in weights(model)]
        held = sum(part for _, part in parts)
        others = sum(part for each, part in parts if not each.muon)
        passing = {}
        if R > 1:  # two layers, one on its way there and one gradient back; the root unit stays, with its gradient
            layer = 2 * self._layer(jobs, padded=False) + 2 * self._layer(jobs, padded=True)
            passing["gathered weights"] = FP32 * (layer + 2 * (found.embedding + found.head))
        part = Activations(model, jobs.precision, self._rows(job) * job.context / own.context, job.context, own.context)
        if jobs.precision == "bf16":
            experts = found.routed_experts / (R if own.expert_parallel else 1)  # whole ones, in use on this rank
            used = found.matrices - found.routed_experts + experts
            passing["weights in bf16"] = 2 * (used / (layers if own.recompute else 1) + found.head)
        passing["activations"] = part.kept(layers, own.recompute)
        passing["logits"] = part.logits + (FP32 * found.head if jobs.precision == "bf16" else 0)
        return Memory(
            states={"weights": FP32 * held, "gradients": FP32 * held, "optimiser": FP32 * (held + others)},
            passing=passing,
            update=muon_space(parts, jobs.precision),
        )

    def sent(self, jobs: Jobs, job: Job, cluster: Cluster) -> dict[str, Sent]:
        own, model, R = self.parallel, jobs.model, self.ranks
        found, node = count(model), cluster.gpus_per_node
        spread = sum(self._gathered(jobs, padded=True).values())
        tokens, passes = job.batch_tokens / R, 2 + own.recompute  # forward, backward, and forward again
        width = 2 if jobs.precision == "bf16" else FP32
        everyone = near(R, 1, node)
        all_gathers = 2 * spread - found.embedding - found.head  # the root unit's are gathered once
        sent = {"weights": ring(FP32 * (all_gathers + spread) * self._micro_batches(job), R, everyone)}
        if own.expert_parallel:
            moved = 2 * tokens * model.num_experts_per_tok * model.hidden_size * width * passes
            layers = model.num_hidden_layers - model.first_k_dense_replace
            sent["experts"] = all_to_all(moved * layers, R, everyone)
        if own.context > 1:
            whole = tokens * own.context * model.cache_width * width * passes * model.num_hidden_layers
            sent["rows"] = ring(whole, own.context, near(own.context, 1, node))
        matrices = found.matrices - found.routed_experts
        sent["Muon"] = all_to_all(2 * FP32 * matrices / R, R, everyone)
        return sent

    def seconds(self, jobs: Jobs, job: Job, cluster: Cluster) -> float:
        times = {name: sent.seconds(cluster) for name, sent in self.sent(jobs, job, cluster).items()}
        hidden = times.pop("weights")
        return max(work_seconds(jobs, job, cluster, self.ranks, jobs.precision), hidden) + sum(times.values())
