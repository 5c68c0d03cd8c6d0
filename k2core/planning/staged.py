"""The meshes with a pipeline that `k2core/training/pipeline.py` runs: stages, and within each what `today.py` plans.

A stage's weights are gathered once per step, in the type that they multiply in, and its gradients stay whole, in fp32,
until the last micro-batch; of the routed experts a rank has its group's share. Activations are those of the
micro-batches in flight under interleaved 1F1B (`ScheduleInterleaved1F1B` of torch), which the first stage has the most
of. Exchanges do not overlap with work: their time is added.
"""

from __future__ import annotations

from dataclasses import dataclass

from k2core.model.config import ModelConfig
from k2core.model.counts import Weights, count, training_flops, weights
from k2core.planning.activations import Activations, muon_space
from k2core.planning.cluster import Cluster
from k2core.planning.jobs import Job, Jobs
from k2core.planning.mesh import ALL_RANKS, Memory, Sent, all_to_all, muon_exchanges, near, ring, work_seconds
from k2core.planning.today import BACKWARD, FP32, Today
from k2core.training.config import ParallelConfig
from k2core.training.pieces import layers_of


def mesh_of(parallel: ParallelConfig) -> Today:
    """The mesh of a recipe's section `parallel`."""
    return Staged(parallel) if parallel.pipeline > 1 else Today(parallel)


@dataclass(frozen=True)
class Staged(Today):
    """A mesh of the recipe's section `parallel`, with a pipeline."""

    def described(self) -> str:
        return f"pipeline {self.parallel.pipeline} × {self.parallel.virtual}, {super().described()}"

    def _layers(self, model: ModelConfig, stage: int) -> list[range]:
        """The layers of a stage's pieces."""
        own = self.parallel
        count = own.pipeline * own.virtual
        return [layers_of(model.num_hidden_layers, count, piece) for piece in range(stage, count, own.pipeline)]

    def _own(self, model: ModelConfig, stage: int) -> ModelConfig:
        """A model of a stage's layers."""
        numbers = [number for piece in self._layers(model, stage) for number in piece]
        dense = sum(number < model.first_k_dense_replace for number in numbers)
        return model.model_copy(update={"num_hidden_layers": len(numbers), "first_k_dense_replace": dense})

    def _weights(self, model: ModelConfig, stage: int) -> list[Weights]:
        own = self._own(model, stage)
        absent = {"embedding"} if stage else set[str]()
        absent |= {"head"} if stage < self.parallel.pipeline - 1 else set()
        return [each for each in weights(own) if each.group not in absent]

    def _whole(self, each: Weights) -> float:
        """Numbers of a tensor that a rank works with, once gathered."""
        return each.numbers / (self.parallel.experts if self._whole_experts(each) else 1)

    def _is_gathered(self, each: Weights) -> bool:
        """Whether FSDP2 gathers it: not where a rank alone has its experts."""
        return not self._whole_experts(each) or self.parallel.copies > 1

    def memory(self, jobs: Jobs, job: Job) -> Memory:
        return max((self._memory(jobs, job, s) for s in range(self.parallel.pipeline)), key=lambda m: m.peak)

    def _memory(self, jobs: Jobs, job: Job, stage: int) -> Memory:
        own, model = self.parallel, jobs.model
        pieces, all_weights = self._layers(model, stage), self._weights(model, stage)
        parts = [(each, self._part(each)) for each in all_weights]
        held, others = sum(part for _, part in parts), sum(part for each, part in parts if not each.muon)
        gathered = sum(self._whole(each) for each in all_weights if self._is_gathered(each))
        tokens = self._rows(job) * job.context / own.context
        if stage:  # the dense layers are the first
            model = model.model_copy(update={"first_k_dense_replace": 0})
        part = Activations(model, jobs.precision, tokens, job.context, own.context, own.experts > 1)
        waiting = 2 * (own.pipeline - 1 - stage) + (own.virtual - 1) * own.pipeline + 1
        flying = min(waiting, own.virtual * self._micro_batches(job))
        layers = flying * sum(len(piece) for piece in pieces) / own.virtual
        work = {BACKWARD: part.backward(own.recompute)}
        if stage == own.pipeline - 1:
            work["logits"] = part.logits
        most = max(work, key=work.__getitem__)
        passing = {
            "gathered weights": part.width * gathered,
            "whole gradients": FP32 * gathered,
            "activations": part.kept(layers, own.recompute),
            most: work[most],
        }
        late = FP32 * sum(part for each, part in parts if self._is_gathered(each))  # cut up after the last micro-batch
        return Memory(
            states={"weights": FP32 * held, "gradients": FP32 * held, "optimiser": FP32 * (held + others)},
            passing=passing,
            update=muon_space(parts, jobs.precision),
            late=min(late, passing["activations"] + work[most]),
        )

    def sent(self, jobs: Jobs, job: Job, cluster: Cluster) -> dict[str, Sent]:
        """Of the stage with most weights."""
        own, model, node = self.parallel, jobs.model, cluster.gpus_per_node
        fullest = max((self._weights(model, s) for s in range(own.pipeline)), key=lambda w: sum(x.numbers for x in w))
        spread = sum(each.numbers for each in fullest if not self._whole_experts(each))
        experts = sum(each.numbers for each in fullest if self._whole_experts(each))
        width = 2 if jobs.precision == "bf16" else FP32
        tokens, passes = job.batch_tokens / own.stage, 2 + own.recompute
        everyone, alike = near(own.shards, 1, node), near(own.copies, own.experts, node)
        moves = width + FP32  # gathered once, reduced once
        parts = [ring(moves * spread, own.shards, everyone), ring(moves * experts / own.experts, own.copies, alike)]
        if own.replicas > 1:
            held = sum(self._part(each) for each in fullest)
            parts.append(ring(2 * FP32 * held, own.replicas, near(own.replicas, own.shards, node)))
        sent = {"weights": Sent(sum(part.inside for part in parts), sum(part.between for part in parts))}
        layers = sum(len(piece) for piece in self._layers(model, own.pipeline // 2))
        if own.experts > 1:
            moved = 2 * tokens * model.num_experts_per_tok * model.hidden_size * width * passes * layers
            sent["experts"] = all_to_all(moved, own.experts, near(own.experts, 1, node))
        if own.context > 1:
            whole = tokens * own.context * model.cache_width * width * passes * layers
            sent["rows"] = ring(whole, own.context, near(own.context, 1, node))
        moved = 2 * tokens * model.hidden_size * width * own.virtual  # on, and the gradients back
        sent["pipeline"] = Sent(0.0, moved) if own.stage * 2 > node else Sent(moved, 0.0)
        matrices = sum(each.numbers for each in fullest if each.muon and not self._whole_experts(each))
        exchanged = [all_to_all(2 * FP32 * matrices / own.shards, own.shards, everyone)]
        exchanged.append(all_to_all(2 * FP32 * experts / own.shards, own.copies, alike))
        sent["Muon"] = Sent(sum(part.inside for part in exchanged), sum(part.between for part in exchanged))
        return sent

    def _largest_share(self, model: ModelConfig, context: int) -> float:
        """Of a token's operations, those of the stage that has most: the others wait for it."""
        work = []
        for stage in range(self.parallel.pipeline):
            own = self._own(model, stage)
            head = 6 * count(own).head if stage < self.parallel.pipeline - 1 else 0
            work.append(training_flops(own, context) - head)
        return max(work) / sum(work)

    def exchanges(self, jobs: Jobs, job: Job) -> int:
        """Of the stage with most layers."""
        own, model, passes = self.parallel, jobs.model, 1 + self.parallel.recompute
        stages = [self._own(model, stage) for stage in range(own.pipeline)]
        layers = max(stage.num_hidden_layers for stage in stages)
        sparse = max(stage.num_hidden_layers - stage.first_k_dense_replace for stage in stages)
        cut = layers + own.virtual if own.shards > 1 else 0
        cut += sparse if own.experts > 1 and own.copies > 1 else 0
        once = 2 * cut + (layers + 1 if own.replicas > 1 else 0)  # gathered and reduced
        each = self._row_exchanges(layers, sparse, passes) + 4 * own.virtual  # pieces' inputs, and gradients
        return once + self._micro_batches(job) * each + muon_exchanges(model) + ALL_RANKS

    def seconds(self, jobs: Jobs, job: Job, cluster: Cluster) -> float:
        own = self.parallel
        bubble = (own.pipeline - 1) / (own.virtual * self._micro_batches(job))
        slowest = own.pipeline * self._largest_share(jobs.model, job.context)
        work = work_seconds(jobs, job, cluster, self.ranks, jobs.precision) * slowest * (1 + bubble)
        sent = sum(sent.seconds(cluster) for sent in self.sent(jobs, job, cluster).values())
        return work + sent + self.exchanges(jobs, job) * cluster.exchange_us / 1e6
