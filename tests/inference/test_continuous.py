"""Fixed rows and slots give what the sampler's batches give; the graph around the step needs a GPU."""

from __future__ import annotations

from random import Random

import pytest
import torch
import torch._dynamo.testing
from test_sampler import STOP, Only, build, prompts, sample

from k2core.inference import continuous as module
from k2core.inference.completion import Completion, Ends
from k2core.inference.continuous import Row, Steps, continuous
from k2core.machine import device
from k2core.machine.compiler import compiled
from k2core.model.lowered import lowered
from k2core.ops import using
from k2core.ops.cuda import operations as cuda

LENGTHS = [1, 9, 3, 9, 17, 2, 30, 4, 4, 12]


@pytest.fixture(autouse=True)
def reference():
    with using("reference"):
        yield


def decoded(model, given, *, rows: int, temperature: float = 0.8, constraints=None) -> list[Completion]:
    order = sorted(range(len(given)), key=lambda index: len(given[index]))
    held = [None if constraint is None else constraint.begin() for constraint in constraints or [None] * len(given)]
    made = {
        index: Row(tuple(given[index]), Completion([], [], "length"), Random(f"5/{index}"), held[index], 12)
        for index in order
    }
    continuous(model, list(made.values()), Ends(12, frozenset(STOP)), temperature, rows)
    return [made[index].completion for index in range(len(given))]


def assert_alike(found: list[Completion], expected: list[Completion]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert (one.tokens, one.finish_reason) == (other.tokens, other.finish_reason)
        assert one.log_probs == pytest.approx(other.log_probs, abs=1e-4)


@pytest.mark.parametrize("rows", [1, 4, 64])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_same_seeds_give_the_same_tokens(rows, temperature):
    """Rows end at different times and others take their places, with fewer rows than prompts."""
    model, given = build(), prompts(LENGTHS)
    expected = sample(model, given, temperature=temperature)
    assert temperature == 0 or len({len(completion.tokens) for completion in expected}) > 2
    assert_alike(decoded(model, given, rows=rows, temperature=temperature), expected)


def test_a_place_is_taken_while_others_go_on(monkeypatch):
    entered, enter = [], Steps.enter

    def noted(self, model, given):
        entered.append(sorted(given))
        enter(self, model, given)

    monkeypatch.setattr(Steps, "enter", noted)
    decoded(build(), prompts([4] * 24), rows=4)
    assert entered[0] == [0, 1, 2, 3] and sum(map(len, entered)) == 24
    assert any(0 < len(places) < 4 for places in entered[1:-1])


@pytest.mark.parametrize("rows", [3, 8])
def test_constraints_hold_as_in_batches(rows):
    model, given = build(), prompts([3, 8, 8, 1, 20, 5, 5, 13])
    constraints = [Only({10, 20, 30, 31}, {3, 11, 40}, {17}) if index % 2 else None for index in range(8)]
    assert_alike(
        decoded(model, given, rows=rows, constraints=constraints), sample(model, given, constraints=constraints)
    )


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    monkeypatch.setattr(cuda, "accepts", lambda *tensors: True)
    with using("cuda"):
        yield


@pytest.mark.usefixtures("as_on_a_gpu")
def test_the_host_looks_once_a_window(monkeypatch):
    """Between two looks a step asks nothing of the host: no value of a tensor is read."""
    windows, inside, run, step = [], [], Steps.run, Steps._step

    def noted(self, drawn):
        windows.append(len(drawn))
        return run(self, drawn)

    monkeypatch.setattr(Steps, "run", noted)

    def watched(self):
        def refuse(*_):
            raise AssertionError("the host waits for a tensor")

        with monkeypatch.context() as patch:
            for name in ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "nonzero", "cpu"):
                patch.setattr(torch.Tensor, name, refuse)
            step(self)
        inside.append(1)

    monkeypatch.setattr(Steps, "_step", watched)
    decoded(build(), prompts([4] * 9), rows=3)
    assert set(windows) == {module.WINDOW} and len(inside) == sum(windows)


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_layers_step_is_one_graph_for_all_layers_of_a_kind(monkeypatch):
    """As it is captured on a GPU; torch's eager back end stands for the compiler."""
    monkeypatch.setattr(device, "precision", "bf16")
    model, given = lowered(build()), prompts([4, 7])
    expected = decoded(model, given, rows=2)
    graphs = torch._dynamo.testing.CompileCounter()
    for layer in model.blocks():
        layer.decode = compiled(layer.decode, backend=graphs, fullgraph=True)
    assert_alike(decoded(model, given, rows=2), expected)
    assert graphs.frame_count == 2  # a dense layer, and one with experts
    torch._dynamo.reset()


@pytest.mark.usefixtures("as_on_a_gpu")
def test_a_diverged_model_is_an_error():
    model = build()
    with torch.no_grad():
        model.norm.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="not numbers: the model has diverged"):
        decoded(model, prompts([3, 4]), rows=2)
