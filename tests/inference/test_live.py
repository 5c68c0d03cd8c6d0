"""Prompts that come and go get what each would get alone."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import pytest
import torch
from test_sampler import STOP, Only, build, prompts

from k2core.inference import live
from k2core.inference.live import Asked, Busy, Engine, Failed, Scored, Token
from k2core.inference.sampler import generate

pytestmark = pytest.mark.usefixtures("either_way")
NAMES = [f"s{index}" for index in range(12)]


@contextmanager
def engine(model=None, **changes) -> Iterator[Engine]:
    def tell(said):
        for asked, heard in said:
            asked.hear(heard)

    made = Engine(model or build(), **{"rows": 4, "slots": 64, "waiting": 32, "tell": tell} | changes)
    try:
        yield made
    finally:
        made.close()


def asked(prompt, name="s0", **changes) -> Asked:
    """Something to ask, whose `heard` is a queue."""
    heard: queue.Queue = queue.Queue()
    wanted = {
        "most": 12, "temperature": 0.8, "top_p": 1.0, "stop_ids": frozenset(STOP), "random": Random(f"5/{name}"),
        "state": None, "likeliest": None, "scored": False,
    }  # fmt: skip
    made = Asked(tuple(prompt), hear=heard.put, **wanted | changes)
    made.heard = heard
    return made


def answer(one: Asked) -> list:
    """All that is heard, to the end."""
    heard = []
    while not heard or not (isinstance(heard[-1], Failed) or heard[-1].finish):
        heard.append(one.heard.get(timeout=30))
    return heard


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_answers_are_those_of_the_sampler_whoever_else_asks(temperature):
    model, given = build(), prompts([1, 9, 3, 9, 17, 2, 30, 4, 4, 12, 5, 7])
    constraints = [Only({10, 20, 30, 31}, {3, 11, 40}, {17}) if index % 3 == 0 else None for index in range(12)]
    expected = generate(
        model, given, max_new_tokens=12, temperature=temperature, stop_ids=STOP, seed=5, constraints=constraints,
        streams=[f"5/{name}" for name in NAMES],
    )  # fmt: skip
    with engine(model) as made:
        ones = [
            asked(prompt, name, temperature=temperature, state=held and held.begin())
            for prompt, name, held in zip(given, NAMES, constraints, strict=True)
        ]
        made.ask(ones[:5])
        ones[0].heard.get(timeout=30)
        for one in ones[5:]:
            made.ask([one])
        made.ask([asked(given[3], temperature=0.3)])
        found = [answer(one) for one in ones[1:]]
    for heard, wanted in zip(found, expected[1:], strict=True):
        assert [token.id for token in heard] == wanted.tokens and heard[-1].finish == wanted.finish_reason


def test_log_probabilities_are_the_models_own():
    model, (prompt,) = build(), prompts([6])
    with engine(model) as made:
        one = asked(prompt, likeliest=3, scored=True, temperature=0.5, state=Only({10, 20}, {3, 11}, {17}).begin())
        made.ask([one])
        scored, *tokens = answer(one)
    with torch.no_grad():
        logits_TV = model(torch.tensor([[*prompt, *(token.id for token in tokens)]]))[0].log_softmax(-1)
    assert isinstance(scored, Scored)
    own = [float(logits_TV[at, token]) for at, token in enumerate([*prompt[1:], *(token.id for token in tokens)])]
    told = [*scored.log_probs, *(token.log_prob for token in tokens)]
    assert told == pytest.approx(own, abs=1e-4)
    for row, likeliest in zip(logits_TV, [*scored.likeliest, *(token.likeliest for token in tokens)], strict=False):
        values, ids = row.topk(3)
        assert [token for token, _ in likeliest] == ids.tolist()
        assert [value for _, value in likeliest] == pytest.approx(values.tolist(), abs=1e-4)


def test_top_p_leaves_the_likeliest():
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0]]).repeat(3, 1)  # probabilities 0.087, 0.644, 0.237, 0.032
    rows = [asked([1], top_p=top_p, temperature=t) for top_p, t in ((0.6, 1.0), (0.7, 1.0), (0.6, 0.0))]
    left = live._nucleus(logits, rows).isfinite().tolist()
    assert left == [[False, True, False, False], [False, True, True, False], [True] * 4]


def test_a_row_that_nobody_listens_to_is_free_at_once():
    with engine(rows=1, slots=10_010) as made:
        endless = asked([1], most=10_000, stop_ids=frozenset(), temperature=0.0)
        made.ask([endless, second := asked([2], most=2, stop_ids=frozenset())])
        endless.heard.get(timeout=30)
        endless.gone = True
        assert len(answer(second)) == 2
        assert endless.heard.qsize() < 9_990


def test_too_many_are_not_taken_and_the_end_is_told():
    with engine(rows=1, waiting=2) as made:
        going = asked([1], most=60, stop_ids=frozenset())
        with made.changed:  # nothing enters meanwhile
            made.waiting.append(going)
            with pytest.raises(Busy):
                made.ask([asked([1]), asked([1])])
            made.changed.notify()
        assert going.heard.get(timeout=30)
    with pytest.raises(Busy):
        made.ask([asked([1])])
    assert isinstance(answer(going)[-1], Failed | Token)


def test_a_fault_is_told_and_others_go_on():
    class Broken:
        def allow(self, words_W):
            raise ValueError("a broken grammar")

        def advance(self, token):
            pass

    with engine() as made:
        made.ask([broken := asked([1], state=Broken())])
        assert answer(broken) == [Failed("ValueError: a broken grammar")]
        made.ask([well := asked([2], most=3, stop_ids=frozenset())])
        assert len(answer(well)) == 3
