"""Every environment: gold passes, known wrong fails, items are pure, splits are disjoint."""

import pytest

from k2core.gym.base import MAX_DRAWS, first_of_split, split_of
from k2core.gym.registry import select, text_environments
from k2core.rl.preferences import gym_pairs

ENVIRONMENTS = text_environments()
WRONG = {
    "sort_numbers": lambda gold: [" ".join(reversed(gold.split())), gold + " 5", " ".join(gold.split()[:-1]), ""],
    "pick_largest": lambda gold: [str(int(gold) + 1), f"{gold} {gold}", f"3 {gold}", ""],
    "count_letters": lambda gold: [str(int(gold) + 1), f"{gold} {gold}", "two", ""],
    "spell_backward": lambda gold: [gold + " z", "z " + gold, "z" * len(gold), ""],
}


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_gold_passes_and_known_wrong_fails(name, split):
    environment = ENVIRONMENTS[name]
    for index in range(25):
        item = environment.item(1, split, index)
        gold = item.gold["content"]
        assert environment.score(item, gold + "<|im_end|>") == 1.0
        for wrong in WRONG[name](gold):
            assert environment.score(item, wrong + "<|im_end|>") < 1.0, (item.messages, wrong)


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_item_is_a_pure_function(name):
    forward = [ENVIRONMENTS[name].item(3, "train", index) for index in range(12)]
    backward = [text_environments()[name].item(3, "train", index) for index in reversed(range(12))]
    assert [item.messages for item in forward] == [item.messages for item in reversed(backward)]
    assert [item.messages for item in forward] != [
        ENVIRONMENTS[name].item(4, "train", index).messages for index in range(12)
    ]


@pytest.mark.parametrize("name", sorted(ENVIRONMENTS))
def test_splits_are_disjoint_for_all_seeds(name):
    keys = {
        split: {ENVIRONMENTS[name].item(seed, split, index).key for seed in range(3) for index in range(60)}
        for split in ("train", "heldout")
    }
    assert keys["train"] and keys["heldout"]
    assert not keys["train"] & keys["heldout"]


def test_the_same_numbers_in_another_order_stay_in_their_split():
    sort = ENVIRONMENTS["sort_numbers"]
    keys = {sort.item(0, "heldout", index).gold["content"] for index in range(200)}
    shown = [sort.item(0, "train", index).messages[-1]["content"].removeprefix("Sort: ") for index in range(200)]
    trained = {" ".join(sorted(text.split(), key=int)) for text in shown}
    assert not keys & trained


def test_a_fifth_of_all_keys_is_held_out():
    share = sum(split_of(f"key {number}") == "heldout" for number in range(5000)) / 5000
    assert 0.18 < share < 0.22


def test_a_space_without_the_split_is_an_error():
    item = ENVIRONMENTS["pick_largest"].item(0, "train", 0)
    with pytest.raises(ValueError, match=f"no heldout item among {MAX_DRAWS} draws"):
        first_of_split("heldout", lambda attempt: item)


def test_unknown_environment_is_named():
    with pytest.raises(ValueError, match=r"rl\.pool: no environment chess; there are count_letters"):
        select(ENVIRONMENTS, {"chess": 3}, "rl.pool")


def test_preference_pairs_differ_and_fail_the_verifier():
    counts = dict.fromkeys(ENVIRONMENTS, 8)
    pairs = gym_pairs(ENVIRONMENTS, counts, "train", 0)
    assert len(pairs) > 30
    assert all(pair.better != pair.worse for pair in pairs)
    assert {pair.source.split("/")[1] for pair in pairs} == set(ENVIRONMENTS)
