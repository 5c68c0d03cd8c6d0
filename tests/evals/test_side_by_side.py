"""A perfect model gets all and a mute one nothing; one model is the same by whichever way it is asked."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from serving import served
from typer.testing import CliRunner
from untrained import export_untrained

from k2core.chat.special_tokens import IM_END
from k2core.chat.template import reply_text
from k2core.evals.__main__ import app
from k2core.evals.candidates import Candidate, Reply, Wanted, candidate_of
from k2core.evals.candidates.address import Address
from k2core.evals.candidates.export import Export
from k2core.evals.candidates.hugging_face import STEP, HuggingFace
from k2core.evals.environments import chosen_items
from k2core.evals.side_by_side import asked_environments, gains, measure, table
from k2core.gym.registry import text_environments
from k2core.serve.app import Served, application
from k2core.stage import StageError
from k2core.storage import StorageError

ENVIRONMENTS, _ = asked_environments(None, ["arithmetic", "instructions", "logic", "needles", *text_environments()])
LONG = Wanted([{"role": "user", "content": "word " * 2000}], None, 12)
ASKED = {"items": 8, "samples": 2, "max_new_tokens": 64, "seed": 1}


class Knows:
    """Says what `replies_by_question` has for the question, and nothing elsewhere."""

    def __init__(self, replies_by_question: dict[str, str]) -> None:
        self.known = replies_by_question

    def replies(self, wanted: Sequence[Wanted], samples: int, temperature: float, seed: int) -> list[list[Reply]]:
        said = [self.known.get(one.messages[-1]["content"], IM_END) for one in wanted]
        return [[Reply(text, False)] * samples for text in said]


def perfect() -> dict[str, str]:
    chosen = chosen_items(ENVIRONMENTS, ASKED["items"], ASKED["seed"])
    return {item.messages[-1]["content"]: reply_text(item.gold) for _, _, item in chosen}


def test_an_address_is_asked_for_each_reply_with_a_seed_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """With equal seeds the replies to items that are alike go wrong together, and no interval over items sees it."""
    address, seeds = Address("http://localhost/v1", "m"), list[int]()
    monkeypatch.setattr(address, "_reply", lambda one, seed, temperature: seeds.append(seed) or Reply(str(seed), False))
    found = address.replies([LONG] * 5, 3, 1.0, 7)
    assert len(set(seeds)) == 15 and [len(replies) for replies in found] == [3] * 5
    again = address.replies([LONG] * 5, 3, 1.0, 7)
    assert again == found


def test_a_perfect_model_gets_all_and_a_mute_one_nothing():
    right, mute = (measure(Knows(known), ENVIRONMENTS, **ASKED) for known in (perfect(), {}))
    assert {"arithmetic", "logic", "needles", "sort_numbers"} <= ENVIRONMENTS.keys()
    ends = {"replies/cut", "replies/beyond_context"}
    assert {score["value"] for name, score in right.scores.items() if name not in ends} == {1.0}
    assert {score["value"] for score in mute.scores.values()} == {0.0} and ends <= mute.scores.keys()
    assert {right.scores[name]["value"] for name in ends} == {0.0}
    (gained,) = gains([mute, right], 1)
    assert gained == {"value": 1.0, "low": 1.0, "high": 1.0}
    lines = table(["mute", "right"], [mute, right], 1).splitlines()
    assert lines[0].split() == ["mute", "right"] and "right over mute +1.000 (+1.000 to +1.000)" in lines[-1]
    assert any(line.startswith("tasks/pass_hat_2/needles ") and "0.000 (0.000 to" in line for line in lines)


def test_a_reply_that_the_budget_cuts_is_wrong_whatever_it_says():
    class Cut(Knows):
        def replies(self, *args):
            return [[Reply(reply.text, True) for reply in group] for group in super().replies(*args)]

    found = measure(Cut(perfect()), ENVIRONMENTS, **ASKED).scores
    assert found["tasks/greedy"]["value"] == 0
    assert found["replies/cut"]["value"] == 1 and found["replies/beyond_context"]["value"] == 0


class Beyond:
    """Asks a candidate `LONG` in the place of every dialogue."""

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate

    def replies(self, wanted: Sequence[Wanted], *given) -> list[list[Reply]]:
        return self.candidate.replies([LONG] * len(wanted), *given)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return export_untrained(tmp_path_factory.mktemp("scored") / "tiny")


@pytest.fixture(scope="module")
def ours(folder) -> Candidate:
    candidate = candidate_of(str(folder))
    assert isinstance(candidate, Export)
    return candidate


@pytest.fixture(scope="module")
def wanted() -> list[Wanted]:
    chosen = chosen_items(ENVIRONMENTS, 2, 1)
    short = [item for _, _, item in chosen if len(str(item.messages)) < 300]
    assert len(short) > 6
    return [Wanted(item.messages, item.tools, 12) for item in short]


def test_a_model_is_the_same_by_folder_by_transformers_and_by_address(folder, ours, wanted):
    expected = ours.replies(wanted, 1, 0.0, 1)
    assert len({reply.text for group in expected for reply in group}) > 3
    theirs = candidate_of(f"hf:{folder}")
    assert isinstance(theirs, HuggingFace) and theirs.replies(wanted, 1, 0.0, 1) == expected
    with served(application(Served.load(folder, rows=4, waiting=32))) as address:
        there = candidate_of(f"{address}/v1#tiny")
        assert isinstance(there, Address)
        # the server holds replies to words, and an untrained model writes control tokens now and then
        words = [number for number, (reply,) in enumerate(expected) if "<|" not in reply.text.removesuffix(IM_END)]
        found = there.replies([wanted[number] for number in words], 1, 0.0, 1)
        assert len(words) > 4 and found == [expected[number] for number in words]
        again = [there.replies(wanted[:2], 3, 1.0, 5) for _ in range(2)]
        assert again[0] == again[1] and len({reply.text for reply in again[0][0]}) > 1
        assert there.replies([LONG], 2, 0.0, 1) == [[Reply("", True)] * 2]
        with pytest.raises(StageError, match=r"#tiny refuses a request \(.*messages"):
            there.replies([Wanted([], None, 4)], 1, 0.0, 1)
        with pytest.raises(StageError, match=r"#other gives no reply \(.*there is no model other"):
            candidate_of(f"{address}/v1#other").replies(wanted[:1], 1, 0.0, 1)


def test_order_and_company_change_nothing(ours, wanted):
    forth = ours.replies(wanted, 1, 0.0, 1)
    assert ours.replies(wanted[::-1], 1, 0.0, 1)[::-1] == forth
    assert [ours.replies([one], 1, 0.0, 1)[0] for one in wanted] == forth


def test_a_dialogue_beyond_the_context_gets_an_empty_reply_that_counts_as_cut(ours, wanted):
    (first,), (cut,), (last,) = ours.replies([wanted[0], LONG, wanted[1]], 1, 0.0, 1)
    assert cut == Reply("", True) and [[first], [last]] == ours.replies(wanted[:2], 1, 0.0, 1)
    assert ours.replies([LONG], 2, 0.0, 1) == [[Reply("", True)] * 2]


def test_transformers_is_asked_within_the_context(folder, ours, wanted, monkeypatch):
    theirs = candidate_of(f"hf:{folder}")
    assert isinstance(theirs, HuggingFace)
    context, reach = ours.model.config.max_position_embeddings, []
    generate = theirs._generate

    def seen(prompts, most, temperature):
        reach.append(max(map(len, prompts)) + most)
        return generate(prompts, most, temperature)

    monkeypatch.setattr(theirs, "_generate", seen)
    near = Wanted([{"role": "user", "content": "word " * 40}], None, 10 * context)
    (first,), (cut,), _, (last,) = theirs.replies([wanted[0], LONG, near, wanted[1]], 1, 0.0, 1)
    assert context - STEP < max(reach) <= context
    assert [[first], [last]] == theirs.replies(wanted[:2], 1, 0.0, 1), "company changes nothing"
    assert cut == Reply("", True)
    assert theirs._budget([0] * (context - 5), 100) == 5 and theirs._budget([0] * context, 100) == 0
    found = measure(Beyond(theirs), {"needles": ENVIRONMENTS["needles"]}, **ASKED | {"items": 2})
    assert found.scores["replies/beyond_context"]["value"] == 1


def test_transformers_samples_are_drawn_apart_and_repeat(folder, wanted):
    theirs = candidate_of(f"hf:{folder}")
    first, again = (theirs.replies(wanted[:2], 3, 1.0, 5) for _ in range(2))
    assert first == again and len({reply.text for reply in first[0]}) > 1


@pytest.mark.parametrize("given", ["http://127.0.0.1:9/v1", "nowhere", "hf:nowhere", "."])
def test_what_is_no_model_is_said(given):
    with pytest.raises(StorageError, match=r"Name it behind a #|no config\.json there"):
        candidate_of(given)


def test_the_command(folder, tmp_path):
    models, out = [str(folder), f"hf:{folder}"], tmp_path / "found"
    few = ["--only", "sort_numbers", "--items", "3", "--samples", "2", "--max-tokens", "6", "--out", str(out)]
    done = CliRunner().invoke(app, [*models, *few])
    assert done.exit_code == 0, done.output
    assert f"tasks/pass_rate, item by item: {models[1]} over {models[0]} +0.000" in done.stdout
    ours, theirs = (json.loads((out / f"{number}.json").read_text()) for number in (0, 1))
    assert theirs["model"] == models[1]
    assert [row["completion"] for row in ours["samples"]] == [row["completion"] for row in theirs["samples"]]
    refused = CliRunner().invoke(app, [str(folder), "nowhere"])  # said first, before one is asked anything
    assert refused.exit_code == 1 and refused.stderr.startswith("evals: nowhere: no config.json")
