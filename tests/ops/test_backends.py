"""Every operation by every backend that has it, against the reference: forward, backward, at awkward shapes."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention
from torch.testing._internal.two_tensor import TwoTensor

from k2core import ops
from k2core.model.visibility import WholeRows
from k2core.ops import BRANCH, backend, reference, using
from k2core.ops.cpu.build import library
from k2core.ops.cuda import operations as cuda
from k2core.ops.reach import Reach

BACKENDS = {"cpu": ["grouped_linear", "head_loss", "latent_attention", "linear", "newton_schulz", "packed_decoder",
                    "rms_norm", "routed_experts", "sample", "swiglu", "token_losses"],
            "cuda": ["attention", "head_loss", "latent_attention", "prepare", "routed_experts", "sample"]}  # fmt: skip
"""What docs/model.md says that each backend has beside the reference."""
OPERATIONS = [
    name for name in ops.__all__ if inspect.isfunction(getattr(ops, name)) and name not in ("flash_for", "using")
]
LENGTHS = [1, 3, 12, 33, 100]
QUINTIC = (3.4445, -4.7750, 2.0315)
needs_compiler = pytest.mark.skipif(library() is None, reason="no C compiler")


@pytest.fixture(autouse=True, params=[1, 3])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Also fills what `empty` gives with NaN, so that nothing a kernel leaves out passes for a result."""
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    torch.set_num_threads(request.param)
    torch.set_deterministic_debug_mode("error")
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    yield
    torch.set_num_threads(before[0])
    torch.set_deterministic_debug_mode(before[1])


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Case:
    """A call of an operation: `call` gets `leaves`, whose gradients are compared if `differentiable`.

    Of several results the first is the differentiable one.
    """

    operation: str
    name: str
    call: Callable[..., Any]
    leaves: list[Tensor]
    differentiable: bool = True

    @property
    def label(self) -> str:
        return f"{self.operation} {self.name}"


def cases() -> Iterator[Case]:
    for rows in LENGTHS:
        for width in (1, 20, 64):  # rows that lie apart, too
            yield Case("rms_norm", f"{rows}x{width}", lambda x, w, d=width: ops.rms_norm(x[:, :d], w, 1e-6),
                       [random(rows, width + 5), random(width, seed=1)])  # fmt: skip
        yield Case("swiglu", f"{rows}", ops.swiglu, [3 * random(rows, 2 * 21)])
        for vocabulary in (2, 31, 200):
            targets = torch.randint(vocabulary, (rows,), generator=torch.Generator().manual_seed(1))
            targets[::3] = -100
            yield Case("token_losses", f"{rows}x{vocabulary}", lambda x, t=targets: ops.token_losses(x, t, -100),
                       [20 * random(rows, vocabulary)])  # fmt: skip
        targets = torch.where(torch.arange(rows) % 3 == 0, -100, torch.arange(rows) % 31)
        yield Case("head_loss", f"{rows}", lambda x, w, t=targets: ops.head_loss(x, w, t, -100),
                   [random(rows, 8), random(31, 8, seed=1)])  # fmt: skip
    yield Case("swiglu", "3 axes", ops.swiglu, [random(2, 15, 8)])
    yield Case("linear", "3 axes", ops.linear, [random(2, 15, 8), random(12, 8, seed=1)])
    for rows, depth, width in ((7, 1, 1), (1, 17, 40), (600, 64, 33), (100, 130, 16), (0, 8, 5)):
        yield Case("linear", f"{rows} {depth}x{width}", ops.linear, [random(rows, depth), random(width, depth, seed=1)])
    # layers without a row, rows in no multiple of any block, and an inner dimension longer than one
    for ends in ([7], [0, 5, 5, 40], [100, 130, 131, 131], [600], [0, 0]):
        for depth, width in ((4, 4), (20, 40), (64, 36), (132, 16)):  # others: test_cpu.py
            leaves = [random(ends[-1], depth), random(len(ends), width, depth, seed=1)]
            yield Case("grouped_linear", f"{ends} {depth}x{width}",
                       lambda x, w, e=tuple(ends): ops.grouped_linear(x, w, torch.tensor(e, dtype=torch.int32)),
                       leaves)  # fmt: skip
    for tokens, choices, experts in ((1, 1, 2), (50, 3, 8), (9, 2, 2), (30, 1, 40)):
        generator = torch.Generator().manual_seed(2)
        chosen = torch.stack([torch.randperm(experts, generator=generator)[:choices] for _ in range(tokens)])
        yield Case("routed_experts", f"{tokens} tokens to {choices} of {experts}",
                   lambda x, w, up, down, chosen=chosen: ops.routed_experts(x, chosen, w, up, down),
                   [random(tokens, 8), random(tokens, choices, seed=3).abs(), random(experts, 2, 12, 8, seed=1),
                    random(experts, 8, 12, seed=2)])  # fmt: skip
    yield Case("rotate", "3 heads", lambda x, a: ops.rotate(x, (a.cos()[..., None, :], a.sin()[..., None, :])),
               [random(2, 5, 3, 6), random(1, 5, 3, seed=1)])  # fmt: skip
    for name, reach, angles in reaches():
        B, T, S = 2, angles.shape[1], reach.segments_BS.shape[1] if reach.segments_BS is not None else angles.shape[1]
        for heads, nope, rope, value in ((1, 4, 2, 4), (3, 20, 6, 33), (2, 32, 16, 32)):
            shape = f"{name}, {heads} heads of {nope} + {rope}, {value}"
            rotation = angles[..., : rope // 2].cos(), angles[..., : rope // 2].sin()
            # the shared key lies in a wider row
            yield Case("latent_attention", shape,
                       lambda q, kv, k, r=rotation, reach=reach: ops.latent_attention(q, kv, k[..., 3:], r, reach, 0.3),
                       [random(B, T, heads, nope + rope), random(B, S, heads, nope + value, seed=1),
                        random(B, S, 3 + rope, seed=2)])  # fmt: skip
            yield Case("attention", shape, lambda q, k, v, reach=reach: ops.attention(q, k, v, reach),
                       [random(B, T, heads, nope), random(B, S, heads, nope, seed=1),
                        random(B, S, heads, value, seed=2)])  # fmt: skip
    for shape in ((1, 1, 1), (3, 5, 40), (2, 40, 5), (5, 33, 33), (2, 64, 70)):
        matrices = random(*shape)
        matrices[0] *= 1e-3
        yield Case("newton_schulz", f"{shape}", lambda x: ops.newton_schulz(x, 5, QUINTIC), [matrices], False)
    for temperature in (0.0, 0.7, 1.3):
        drawn = torch.linspace(0.004, 0.996, 30)
        yield Case("sample", f"{temperature}", lambda x, t=temperature, d=drawn: ops.sample(x, t, d),
                   [3 * random(30, 333)], False)  # fmt: skip


def reaches() -> Iterator[tuple[str, Reach, Tensor]]:
    """Whole rows, packed ones, other ones in each row, and the two runs of a process that shares rows; with angles.

    300 tokens are three blocks of queries, of which the later ones do not see the first documents.
    """
    for length in (1, 3, 100, 300):
        cuts = torch.arange(length) * 5
        packed = torch.stack([cuts // length, (cuts + length // 2) // length])
        yield f"{length}", WholeRows().reach(length, None), random(1, length, 8, seed=5)
        yield f"{length} packed", WholeRows().reach(length, packed), random(2, length, 8, seed=5)
        yield f"{length} packed alike", WholeRows().reach(length, packed[:1]), random(1, length, 8, seed=5)
    for trunk, each in ((0, 3), (1, 2), (40, 70)):  # three branches of a trunk that a document stands before
        lengths = [10, trunk, each, each, each]
        numbers = torch.tensor([0, 1, BRANCH + 1, 2 * BRANCH + 1, 3 * BRANCH + 1])
        tree = numbers.repeat_interleave(torch.tensor(lengths))
        yield f"branches of {trunk}", WholeRows().reach(len(tree), tree[None]), random(1, len(tree), 8, seed=5)
    runs = [(70, 70), (210, 70)]  # process 1 of 2 with rows of 280
    mine = torch.cat([torch.arange(start, start + length) for start, length in runs])
    row = (torch.arange(280) // 90).expand(2, -1)
    yield "shared row", Reach(runs, row[:, mine], row, lambda part: part), random(1, 140, 8, seed=5)


ALL = list(cases())
PAIRS = [(case, setting) for setting, has in BACKENDS.items() for case in ALL if case.operation in has]


@pytest.fixture(autouse=True)
def cuda_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the backend `cuda` take tensors on the CPU if it is asked.

    FlexAttention then runs uncompiled and forward only, by code of torch that gives the largest scores too, although a
    check before it says that on a CPU there are none.
    """
    options = flex_attention._apply_kernel_options

    def unchecked(query, key, value, return_lse, kernel_options, return_aux):
        return {**options(query, key, value, return_lse, kernel_options), "OUTPUT_MAX": True}

    monkeypatch.setattr(cuda, "accepts", lambda *tensors: backend._within == "cuda")
    monkeypatch.setattr(flex_attention, "_apply_kernel_options", unchecked)
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


def results(case: Case, setting: str, differentiable: bool) -> list[Tensor]:
    leaves = [leaf.detach().clone().requires_grad_(differentiable) for leaf in case.leaves]
    with using(setting):
        out = case.call(*leaves)
    found = list(out) if isinstance(out, tuple) else [out]
    if differentiable:
        (found[0] * random(*found[0].shape, 1, seed=9)[..., 0]).sum().backward()
        found += [leaf.grad for leaf in leaves]
    assert not any(found_.requires_grad for found_ in found[1:]), "the largest logits have no gradient"
    return [tensor.detach() for tensor in found]


@needs_compiler
@pytest.mark.parametrize(("case", "setting"), PAIRS, ids=lambda part: getattr(part, "label", part))
def test_a_backend_gives_what_the_reference_gives(case: Case, setting: str) -> None:
    """To fp32 rounding, with the largest logits; inputs stay as they are."""
    before = [leaf.clone() for leaf in case.leaves]
    differentiable = case.differentiable and not (setting == "cuda" and "attention" in case.operation)
    pair = [results(case, which, differentiable) for which in (setting, "reference")]
    for ours, theirs in zip(*pair, strict=True):
        assert ours.shape == theirs.shape
        assert float((ours - theirs).double().norm()) <= 1e-5 * float(theirs.double().norm()) + 2e-5
    assert all(torch.equal(leaf, kept) for leaf, kept in zip(case.leaves, before, strict=True))


@needs_compiler
def test_the_tables_of_what_backends_have_are_true() -> None:
    """All operations are in the reference and tried here; a backend has what is said, with the same parameters."""
    tables = [(reference, OPERATIONS), *((backend.ASKED[name][0], has) for name, has in BACKENDS.items())]
    for operation in OPERATIONS:
        parameters = list(inspect.signature(getattr(ops, operation)).parameters)
        for module, has in tables:
            assert hasattr(module, operation) == (operation in has), (module, operation)
            if operation in has:
                assert list(inspect.signature(getattr(module, operation)).parameters) == parameters
    assert {case.operation for case in ALL} == {*OPERATIONS} - {"packed_decoder", "prepare"}


def test_attention_against_its_definition() -> None:
    """Pair by pair, for both kinds: what the reference means by columns, segments, scale and the largest logit."""
    B, T, H, n, r, v = 2, 9, 2, 3, 4, 5
    q, kv, shared = random(B, T, H, n + r), random(B, T, H, n + v, seed=1), random(B, T, r, seed=2)
    angles, segments = random(1, T, r // 2, seed=3), torch.tensor([[0] * 4 + [1] * 5, [0] * 9])
    rotation = angles.cos(), angles.sin()
    reach = WholeRows().reach(T, segments)
    with using("reference"):
        out, largest = ops.latent_attention(q, kv, shared, rotation, reach, 0.3)
        turned = ops.rotate(q[..., n:], tuple(part[..., None, :] for part in rotation))
        keys = torch.cat([kv[..., :n], shared[:, :, None].expand(-1, -1, H, -1)], dim=-1)
        plain = ops.attention(0.3 * torch.cat([q[..., :n], turned], dim=-1), keys, kv[..., n:], reach)
    assert torch.allclose(out, plain[0], atol=1e-6) and torch.allclose(largest, plain[1], atol=1e-6)
    for b in range(B):
        for h in range(H):
            seen = []
            for t in range(T):
                allowed = [s for s in range(t + 1) if segments[b, s] == segments[b, t]]
                products = [q[b, t, h, :n] @ kv[b, s, h, :n] + turned[b, t, h] @ shared[b, s] for s in allowed]
                logits = [0.3 * float(product) for product in products]
                weights = torch.tensor(logits).softmax(0)
                expected = sum(w * kv[b, s, h, n:] for w, s in zip(weights, allowed, strict=True))
                assert torch.allclose(out[b, t, h], expected, atol=1e-5)
                seen += logits
            assert float(largest[b, h]) == pytest.approx(max(seen), abs=1e-5)


@pytest.mark.parametrize("setting", ["cpu", "cuda", "reference"])
def test_sampling(setting: str) -> None:
    """The token that holds each number of the unit interval, at its ends and on borders; none of probability 0."""
    if setting == "cpu" and library() is None:
        pytest.skip("no C compiler")
    logits = torch.tensor([[-math.inf, 0.0, 1.0, -math.inf, 0.5, -math.inf]])
    for temperature in (0.7, 1.0):
        probabilities = (logits[0] / temperature).softmax(0)
        borders = probabilities.cumsum(0)
        drawn = torch.cat([torch.tensor([1e-30, 1.0]), borders[1:5] - 1e-3, borders[1:4] + 1e-3])
        with using(setting):
            tokens, log_probs = ops.sample(logits.expand(len(drawn), -1), temperature, drawn)
        assert tokens.tolist() == [1, 4, 1, 2, 2, 4, 2, 4, 4]
        assert torch.allclose(log_probs, probabilities.log()[tokens], atol=1e-6)


OTHERS = {
    "bf16": lambda x: x.bfloat16(),
    "another device": lambda x: x.to("meta"),
    "another class": lambda x: TwoTensor(x, x.clone()),  # as DTensor is
    "one of several": lambda x: (x, x.double()),
}


@needs_compiler
@pytest.mark.parametrize("kind", OTHERS)
def test_what_a_backend_refuses_is_left_to_the_reference(kind: str) -> None:
    made = OTHERS[kind](random(4, 8))
    tensors = made if isinstance(made, tuple) else (made,)
    for setting in ("auto", "cpu"):
        with using(setting):
            for operation in OPERATIONS:
                assert backend.implementation(operation, *tensors) is getattr(reference, operation)
            plain = (random(4, 8), torch.nn.Parameter(random(4, 8)))
            assert backend.implementation("linear", *plain) is not reference.linear
            if kind != "one of several":
                y = ops.linear(made, OTHERS[kind](random(3, 8)))
                assert (type(y), y.dtype, y.device, y.shape) == (type(made), made.dtype, made.device, (4, 3))


@needs_compiler
def test_using_holds_within_and_the_recipe_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    x = random(2, 8)

    def computed_by_reference() -> bool:
        return backend.implementation("swiglu", x) is reference.swiglu

    assert not computed_by_reference()
    with pytest.raises(KeyError), using("reference"):
        with using("auto"):
            assert not computed_by_reference()
        assert computed_by_reference()
        raise KeyError
    assert not computed_by_reference()
    monkeypatch.setattr(backend.device, "backend", "reference")
    assert computed_by_reference()
    with using("cpu"):
        assert not computed_by_reference()
    with pytest.raises(ValueError, match="no backend nothing; there are: auto, cpu, cuda, reference"), using("nothing"):
        pass


def test_a_reach_is_worked_out_once() -> None:
    """All layers share what a backend makes of it, and a block sees no key before its queries' first document."""
    reach = WholeRows().reach(50, (torch.arange(50) // 17).expand(2, 50))
    assert reach.blocks(16) == [(0, 16, 0, 16), (16, 32, 0, 32), (32, 48, 17, 48), (48, 50, 34, 50)]
    assert reach.blocks(16) is reach.blocks(16)
    assert WholeRows().reach(50, None).blocks(32) == [(0, 32, 0, 32), (32, 50, 0, 50)]
