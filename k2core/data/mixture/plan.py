"""What a phase will take of the corpus, counted before it starts; `PhaseSource.figures` counts what it took.

Expectations, not draws: a bucket of documents gets its share of the phase's rows, and an epoch holds rate × length of
each document's tokens. A longer phase costs no more to plan. What packing pads and crops is not counted.

Shapes: D documents of a span.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from k2core.data.mixture.pool import ALL, LONG, Pool, lower_quantiles, read_pool
from k2core.data.mixture.selection import Select
from k2core.data.mixture.shares import row_weights
from k2core.data.rows.shards import TokenShards

QUALITY_BUCKETS = 4
Plan = dict[str, Any]


def plan_phase(
    shards: TokenShards, *, weights: Mapping[str, float], select: Select, tokens: int,
    epochs_before: Mapping[str, float],
) -> Plan:  # fmt: skip
    """The plan of one phase of `tokens` tokens.

    Args:
        epochs_before: passes through each domain's documents by earlier phases.

    Returns:
        `tokens`; `long`, if long documents are asked for: the share `planned` and the share `available`, which the
        mixture would show by itself; and for each of the `domains`
        - `weight` (sums to 1), `tokens`, `documents` (admitted by `select`), `tokens_available` (theirs per epoch);
        - `epochs` and `epochs_after`: passes through the domain's documents in this phase, and up to its end; in a
          pass, each admitted document of rate 1 comes once;
        - `long` (if asked for): `tokens`, `documents`, `tokens_available`;
        - `upsampling`: for each quarter by quality (`q1` the worst), how many times as often its tokens come as in
          the whole domain; quarters that are empty because many documents are equally good are left out.

    Raises:
        StorageError: a domain of the mixture is not in the shards, or has too few long documents.
    """
    pools = {domain: read_pool(shards, domain, select) for domain, weight in sorted(weights.items()) if weight}
    buckets = row_weights(pools, weights, select)
    total = sum(buckets.values())
    by_domain: dict[str, dict[str, float]] = {domain: {} for domain in pools}
    for bucket, weight in buckets.items():
        by_domain[bucket.domain][bucket.part] = tokens * weight / total
    domains: dict[str, dict[str, Any]] = {}
    for domain, planned in by_domain.items():
        pool = pools[domain]
        epochs = max(count / pool.tokens(part) for part, count in planned.items())
        domains[domain] = {
            "weight": sum(planned.values()) / tokens, "tokens": sum(planned.values()),
            "documents": pool.admitted(ALL), "tokens_available": pool.tokens(ALL),
            "epochs": epochs, "epochs_after": epochs_before.get(domain, 0.0) + epochs,
            "upsampling": _upsampling(pool, shards.document_quality("train", domain), planned),
        }  # fmt: skip
        if select.long_share:
            domains[domain]["long"] = {
                "tokens": planned.get(LONG, 0.0), "documents": pool.admitted(LONG),
                "tokens_available": pool.tokens(LONG),
            }  # fmt: skip
    plan: Plan = {"tokens": tokens, "domains": domains}
    if select.long_share:
        plan["long"] = {
            "planned": sum(domain["long"]["tokens"] for domain in domains.values()) / tokens,
            "available": sum(domains[name]["weight"] * pool.long_share for name, pool in pools.items()),
        }
    return plan


def _upsampling(pool: Pool, quality: np.ndarray, planned: Mapping[str, float]) -> dict[str, float]:
    """By quarter of quality: its share of the planned tokens over its share of all the domain's tokens."""
    edges = lower_quantiles(quality, [place / QUALITY_BUCKETS for place in range(1, QUALITY_BUCKETS)])
    taken, all_of = np.zeros(QUALITY_BUCKETS), np.zeros(QUALITY_BUCKETS)
    documents = np.zeros(QUALITY_BUCKETS, np.int64)
    total = 0.0
    for span in pool:
        weighed_D = span.rates_D * span.lengths_D
        taken_D = np.zeros_like(weighed_D)
        for part, count in planned.items():
            taken_D += np.where(span.parts[part], weighed_D * count / pool.tokens(part), 0.0)
        total += taken_D.sum()
        quarter_D = np.searchsorted(edges, span.quality_D, side="right")
        for quarter in range(QUALITY_BUCKETS):
            inside_D = quarter_D == quarter
            taken[quarter] += taken_D[inside_D].sum()
            all_of[quarter] += span.lengths_D[inside_D].sum()
            documents[quarter] += inside_D.sum()
    return {
        f"q{quarter + 1}": float(taken[quarter] / total / (all_of[quarter] / all_of.sum()))
        for quarter in np.flatnonzero(documents).tolist()
    }


def manifest(shards: TokenShards, phases: Mapping[str, Plan], max_epochs: float) -> Plan:
    """The plans of successive phases with their totals, floats at four digits, and warnings."""
    last: dict[str, float] = {}
    tokens: dict[str, float] = {}
    warnings = []
    for phase, plan in phases.items():
        long = plan.get("long")
        if long and long["available"] > long["planned"]:
            warnings.append(
                f"phase {phase}: its mixture has {long['available']:.0%} long documents by itself, so a long_share of "
                f"{long['planned']:.0%} thins them out; raise long_tokens or long_share"
            )
        for domain, planned in plan["domains"].items():
            tokens[domain] = tokens.get(domain, 0.0) + planned["tokens"]
            before, last[domain] = last.get(domain, 0.0), planned["epochs_after"]
            if last[domain] > max_epochs >= before:
                warnings.append(
                    f"{domain}: {last[domain]:.3g} epochs by the end of phase {phase}, more than {max_epochs:g}; "
                    "repeated text then teaches less and less (Muennighoff et al. 2023): lower its weight or add text"
                )
    totals = {
        domain: {
            "documents": shards.manifest["train"][domain]["documents"],
            "tokens_in_shard": shards.manifest["train"][domain]["tokens"],
            "tokens": tokens[domain], "epochs": last[domain],
        }
        for domain in sorted(tokens)
    }  # fmt: skip
    content = {
        "phases": dict(phases), "totals": {"domains": totals, "tokens": sum(tokens.values())}, "warnings": warnings,
    }  # fmt: skip
    return _rounded(content)


def figures(content: Plan) -> dict[str, float]:
    """The manifest as flat figures: `PHASE/tokens/DOMAIN`, `…/epochs/…`, `…/upsampling/DOMAIN/QUARTER`."""
    flat = {"warnings": len(content["warnings"]), "tokens": content["totals"]["tokens"]}
    for domain, total in content["totals"]["domains"].items():
        flat |= {f"{name}/{domain}": total[name] for name in ("tokens", "epochs")}
    for phase, plan in content["phases"].items():
        flat |= {f"{phase}/long_share/{name}": value for name, value in plan.get("long", {}).items()}
        for domain, planned in plan["domains"].items():
            names = ("weight", "tokens", "documents", "tokens_available", "epochs", "epochs_after")
            flat |= {f"{phase}/{name}/{domain}": planned[name] for name in names}
            flat |= {f"{phase}/upsampling/{domain}/{name}": value for name, value in planned["upsampling"].items()}
            flat |= {f"{phase}/long_{name}/{domain}": value for name, value in planned.get("long", {}).items()}
    return {name: float(value) for name, value in flat.items()}


def _rounded(value: Any) -> Any:
    """Floats as whole numbers from 1,000 on, below at four digits: what a person compares."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, float):
        return round(value) if abs(value) >= 1000 else float(f"{value:.4g}")
    return value
