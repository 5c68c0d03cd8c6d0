"""A perfect model gets all and a mute one nothing; one model is the same by whichever way it is asked."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

import pytest
from serving import served
from untrained import export_untrained
from workspace import ROOT

from k2core.chat.special_tokens import IM_END
from k2core.chat.template import reply_text
from k2core.evals.candidates import Candidate, Reply, Wanted, candidate_of
from k2core.evals.candidates.address import Address
from k2core.evals.candidates.export import Export
from k2core.evals.candidates.hugging_face import HuggingFace
from k2core.evals.environments import chosen_items
from k2core.evals.side_by_side import asked_environments, gains, measure, table
from k2core.serve.app import Served, application
from k2core.stage import StageError
from k2core.storage import StorageError

ENVIRONMENTS = asked_environments(None, [])
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


def test_a_perfect_model_gets_all_and_a_mute_one_nothing():
    right, mute = (measure(Knows(known), ENVIRONMENTS, **ASKED) for known in (perfect(), {}))
    assert {"arithmetic", "logic", "needles", "sort_numbers"} <= ENVIRONMENTS.keys()
    assert {score["value"] for score in right.scores.values()} == {1.0}
    assert {score["value"] for score in mute.scores.values()} == {0.0}
    (gained,) = gains([mute, right], 1)
    assert gained == {"value": 1.0, "low": 1.0, "high": 1.0}
    lines = table(["mute", "right"], [mute, right], 1).splitlines()
    assert lines[0].split() == ["mute", "right"] and "right over mute +1.000 (+1.000 to +1.000)" in lines[-1]
    assert any(line.startswith("tasks/pass_hat_2/needles ") and "0.000 (0.000 to" in line for line in lines)


def test_a_reply_that_the_budget_cuts_is_wrong_whatever_it_says():
    class Cut(Knows):
        def replies(self, *args):
            return [[Reply(reply.text, True) for reply in group] for group in super().replies(*args)]

    assert measure(Cut(perfect()), ENVIRONMENTS, **ASKED).scores["tasks/greedy"]["value"] == 0


def test_guesses_get_their_chance():
    logic = asked_environments(None, ["logic"])
    items = chosen_items(logic, 200, 1)
    rate = sum(environment.score(item, "Yes" + IM_END) for _, environment, item in items) / len(items)
    assert 0.3 < rate < 0.7


def test_an_environment_that_there_is_not_is_said():
    with pytest.raises(StageError, match="no environment flying; there are arithmetic, "):
        asked_environments(None, ["flying"])


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
        assert isinstance(there, Address) and there.replies(wanted, 1, 0.0, 1) == expected
        again = [there.replies(wanted[:2], 3, 1.0, 5) for _ in range(2)]
        assert again[0] == again[1] and len({reply.text for reply in again[0][0]}) > 1
        with pytest.raises(StageError, match=r"#other gives no reply \(.*there is no model other"):
            candidate_of(f"{address}/v1#other").replies(wanted[:1], 1, 0.0, 1)


def test_order_and_company_change_nothing(ours, wanted):
    forth = ours.replies(wanted, 1, 0.0, 1)
    assert ours.replies(wanted[::-1], 1, 0.0, 1)[::-1] == forth
    assert [ours.replies([one], 1, 0.0, 1)[0] for one in wanted] == forth


def test_transformers_samples_are_drawn_apart_and_repeat(folder, wanted):
    theirs = candidate_of(f"hf:{folder}")
    first, again = (theirs.replies(wanted[:2], 3, 1.0, 5) for _ in range(2))
    assert first == again and len({reply.text for reply in first[0]}) > 1


@pytest.mark.parametrize("given", ["http://127.0.0.1:9/v1", "nowhere", "hf:nowhere", "."])
def test_what_is_no_model_is_said(given):
    with pytest.raises(StorageError, match=r"Name it behind a #|no config\.json there|no such folder"):
        candidate_of(given)


def test_the_command(folder, tmp_path):
    command = [sys.executable, "-m", "k2core.evals", folder, f"hf:{folder}", "--only", "sort_numbers"]
    more = ["--items", "3", "--samples", "2", "--max-tokens", "6", "--out", tmp_path / "found"]
    done = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert f"tasks/pass_rate, item by item: hf:{folder} over {folder} +0.000" in done.stdout
    files = [json.loads((tmp_path / "found" / f"{number}.json").read_text()) for number in (0, 1)]
    assert (
        files[1]["model"] == f"hf:{folder}"
        and files[0]["samples"][0]["completion"] == files[1]["samples"][0]["completion"]
    )
    refused = subprocess.run([*command[:3], "nowhere"], cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert refused.returncode == 1 and refused.stderr.splitlines()[-1].startswith("evals: nowhere: no config.json")
