"""What must divide for a mesh to share a training out, for the trainer and for the planner (`k2core/planning`)."""

from __future__ import annotations

from math import gcd

from k2core.model.config import ModelConfig
from k2core.recipe import RecipeError
from k2core.training.config import ParallelConfig


class DoesNotDivide(RecipeError):
    """Something cannot be shared out equally.

    Attributes:
        reason: what, in one sentence; the message adds the nearest numbers that can.
    """

    def __init__(self, reason: str, nearest: str) -> None:
        super().__init__(f"{reason}; the nearest that can: {nearest}")
        self.reason = reason


def check_model(own: ParallelConfig, model: ModelConfig) -> None:
    """
    Raises:
        DoesNotDivide: experts or layers cannot be shared out.
    """
    experts, pieces = model.n_routed_experts, own.pipeline * own.virtual
    if experts % own.experts:
        raise DoesNotDivide(
            f"{experts} routed experts cannot be shared out equally over {own.experts} ranks",
            f"parallel.experts {_divisors(experts, own.experts)}",
        )
    rows = gcd(model.moe_intermediate_size, model.hidden_size)
    if own.experts > 1 and rows % own.copies:
        raise DoesNotDivide(
            f"the {own.copies} ranks with the same experts cannot cut matrices of {model.moe_intermediate_size} and "
            f"{model.hidden_size} rows equally",
            f"{_divisors(rows, own.copies)} such ranks (processes / pipeline / replicas / experts)",
        )
    if pieces > model.num_hidden_layers:
        raise DoesNotDivide(
            f"{model.num_hidden_layers} layers are fewer than {own.pipeline} × {own.virtual} pieces of a pipeline",
            f"parallel.virtual {max(1, model.num_hidden_layers // own.pipeline)}",
        )


def rows_each(rows: int, groups: int) -> int:
    """How many of a step's `rows` each of `groups` gets.

    Raises:
        DoesNotDivide: not the same number.
    """
    if rows % groups:
        raise DoesNotDivide(
            f"{rows} rows per step cannot be shared out over {groups} groups equally",
            f"{_multiples(groups, rows)} rows",
        )
    return rows // groups


def rows_at_once(rows: int, context: int, micro_batch_tokens: int | None, shared: int = 1, pipeline: int = 1) -> int:
    """How many of a group's `rows` make a micro-batch; None: all of them.

    Args:
        context: tokens of a row, which `shared` processes share.

    Raises:
        DoesNotDivide: micro-batches would have different sizes, or do not fill a pipeline of `pipeline` stages.
    """
    most = rows
    if micro_batch_tokens is not None:
        most = min(rows, max(1, micro_batch_tokens * shared // context))
    if rows % most:
        raise DoesNotDivide(
            f"a process's {rows} rows per step are not a multiple of the {most} rows that parallel.micro_batch_tokens "
            f"{micro_batch_tokens} makes",
            f"micro-batches of {_divisors(rows, most)} rows of {context // shared} tokens",
        )
    if rows // most % pipeline:
        raise DoesNotDivide(
            f"{rows // most} micro-batches per step are not a multiple of the pipeline's {pipeline} stages",
            f"{_multiples(pipeline, rows // most)} micro-batches (parallel.micro_batch_tokens, batch_tokens)",
        )
    return most


def check_columns(context: int, shared: int) -> None:
    """
    Raises:
        DoesNotDivide: rows of `context` tokens cannot be shared by `shared` processes.
    """
    if shared > 1 and context % (2 * shared):
        raise DoesNotDivide(
            f"rows of {context} tokens cannot be cut into 2 × {shared} equal chunks",
            f"{_multiples(2 * shared, context)} tokens",
        )


def _divisors(number: int, wanted: int) -> str:
    """The divisors of `number` on both sides of `wanted`."""
    found = [n for n in range(1, number + 1) if number % n == 0]
    return _or(
        max((n for n in found if n <= wanted), default=None), min((n for n in found if n >= wanted), default=None)
    )


def _multiples(number: int, wanted: int) -> str:
    """The multiples of `number` on both sides of `wanted`."""
    low = wanted // number * number
    return _or(low or None, low + number)


def _or(low: int | None, high: int | None) -> str:
    return " or ".join(str(n) for n in (low, high) if n is not None)
