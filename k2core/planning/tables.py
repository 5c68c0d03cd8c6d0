"""A plan as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from k2core.figures.tables import table
from k2core.model.counts import activated, count, training_flops
from k2core.planning.cluster import Cluster
from k2core.planning.jobs import Jobs
from k2core.planning.pipelined import PipelinedMesh
from k2core.planning.plan import Phase, Plan
from k2core.planning.sampling import needs

PLANNED = "planned as K2 kept its states, which this code does not"
TODAY = "this code runs it; never tried on GPUs"


def parameters(jobs: Jobs) -> str:
    """How many of each group, and operations per token."""
    found = count(jobs.model)
    rows = [[name.replace("_", " "), f"{number:,}"] for name, number in asdict(found).items()]
    rows += [["**total**", f"{found.total:,}"], ["**activated per token**", f"{activated(jobs.model):,}"]]
    return table(["parameters", ""], rows)


def operations(jobs: Jobs) -> str:
    """Of each training, pre-training and what follows it."""
    rows = []
    for job in (*jobs.pretraining, *jobs.post):
        each = training_flops(jobs.model, job.context)
        rows.append([
            job.name, f"{job.tokens:.3g}", f"{job.batch_tokens:,}", f"{job.context:,}", f"{each:.3g}",
            f"{job.flops(jobs.model):.3g}", f"{each * job.tokens:.3g}",
        ])  # fmt: skip
    heads = ["training", "tokens", "tokens per step", "context", "FLOPs per token", "per step", "in all"]
    return table(heads, rows)


def memory(plan: Plan) -> str:
    """Of the fullest rank in the fullest phase."""
    phase = plan.fullest
    found = phase.memory
    rows = [[name, gigabytes(size)] for name, size in found.states.items()]
    rows += [[f"{name}, for a micro-batch", gigabytes(size)] for name, size in found.passing.items()]
    rows += [["Muon's work space, after the micro-batches", gigabytes(found.update)]]
    rows += [["**at most**", f"**{gigabytes(found.peak)}** of {gigabytes(plan.cluster.usable)}"]]
    if found.host:
        rows.append(["offloaded, per node", gigabytes(found.host * plan.cluster.gpus_per_node)])
    return table([f"memory per GPU, phase {phase.job.name}", "GB"], rows)


def exchanges(plan: Plan) -> str:
    """Bytes that a rank sends in a step of each phase, by what for."""
    rows = []
    if plan.mesh.ranks == 1:
        return "One GPU exchanges nothing."
    for phase in plan.phases:
        for name, sent in phase.sent.items():
            seconds = sent.seconds(plan.cluster)
            rows.append([
                phase.job.name, name, gigabytes(sent.inside), gigabytes(sent.between), f"{seconds:.3g}"
            ])  # fmt: skip
    return table(["phase", "sent per GPU and step", "inside a node, GB", "between nodes, GB", "seconds"], rows)


def times(plan: Plan) -> str:
    """Seconds per step, days and GPU-hours of each phase."""
    rows = [
        [phase.job.name, f"{phase.job.steps:,}", f"{phase.seconds:.3g}", f"{phase.hours / 24:.3g}",
         number(phase.hours * plan.mesh.ranks), f"{_reached(plan, phase):.0%}"]
        for phase in plan.phases
    ]  # fmt: skip
    days, hours = plan.hours / 24, plan.hours * plan.mesh.ranks
    rows.append(["**all**", "", "", f"**{days:.3g}**", f"**{number(hours)}**", ""])
    return table(["phase", "steps", "seconds per step", "days", "GPU-hours", "share of the peak"], rows)


def post(jobs: Jobs, cluster: Cluster) -> str:
    """GPU-hours of SFT, critic and RL at the cluster's share of the peak, in one sentence."""
    rate = cluster.peak(jobs.precision) * cluster.share_of_peak
    each = [f"{job.name} {job.flops(jobs.model) * job.steps / rate / 3600:.2g}" for job in jobs.post]
    return (
        f"GPU-hours after pre-training, of the operations alone at the cluster's share of the peak: {', '.join(each)} "
        "(RL without its sampling)."
    )


def sampling(jobs: Jobs, cluster: Cluster) -> str:
    """Whether a GPU has room to sample in RL, as a paragraph."""
    if jobs.rl is None:
        return "There is no RL."
    if jobs.rl.rollouts.engine != "embedded":
        return f"RL samples from a server ({jobs.rl.rollouts.engine}), which has GPUs of its own."
    found, room, mesh = needs(jobs, jobs.rl), cluster.usable, jobs.parallel.of("rl")
    total = sum(found.values())
    parts = ", ".join(f"{name} {gigabytes(size)}" for name, size in found.items())
    said = f"A GPU that samples in RL needs {gigabytes(total)} GB ({parts}) and has {gigabytes(room)} GB for it"
    if total <= room:
        return f"{said}: it fits."
    return (
        f"{said}: **stage `rl` cannot run on its mesh of {mesh.processes} processes.** In bf16 the copy alone would be "
        f"{gigabytes(2 * count(jobs.model).total)} GB. Servers with GPUs of their own would have to sample "
        "(`rl.rollouts.engine`), and this code asks those from one process only."
    )


def proposals(plans: Sequence[Plan]) -> str:
    """One line per plan."""
    rows = [
        [each.mesh.described(), status(each), gigabytes(each.fullest.memory.peak), f"{each.phases[0].seconds:.3g}",
         f"{each.hours / 24:.3g}", number(each.hours * each.mesh.ranks)]
        for each in plans
    ]  # fmt: skip
    heads = ["mesh", "", "GB per GPU", "seconds per step, first phase", "days", "GPU-hours"]
    return table(heads, rows)


def whole(plan: Plan) -> str:
    """All tables of a plan."""
    cluster = plan.cluster
    rate = f"at {cluster.share_of_peak:.0%} of the peak: {cluster.share_source}."
    head = f"{plan.mesh.described()} ({status(plan)}), {rate}"
    parts = [head, parameters(plan.jobs), operations(plan.jobs), memory(plan), exchanges(plan), times(plan)]
    return "\n\n".join([*parts, post(plan.jobs, cluster), sampling(plan.jobs, cluster)])


def status(plan: Plan) -> str:
    """Whether this project's code runs such a mesh."""
    return PLANNED if isinstance(plan.mesh, PipelinedMesh) else TODAY


def _reached(plan: Plan, phase: Phase) -> float:
    precision = "bf16" if isinstance(plan.mesh, PipelinedMesh) else plan.jobs.precision
    return phase.job.flops(plan.jobs.model) / (phase.seconds * plan.mesh.ranks * plan.cluster.peak(precision))


def gigabytes(size: float) -> str:
    return number(size / 1e9)


def number(value: float) -> str:
    """Three digits, more for large numbers."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
