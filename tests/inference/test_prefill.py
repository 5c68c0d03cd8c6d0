"""What several prompts begin with is read once, and the cache is that of each prompt read alone."""

from random import Random

import pytest
import torch
from micro import micro_model

from k2core.inference.prefill import ROW, grow, prefill

STARTS = [(3, 4, 5, 6, 7, 3, 4, 6), (3, 4, 5, 6, 7, 3, 4, 7, 7, 7), (5, 5)]


def prompts(count: int, seed: int) -> list[tuple[int, ...]]:
    """Beginnings in common, prompts that are the beginning of another one, equal ones, and one of a single token."""
    random, made = Random(seed), [(4,), *STARTS, STARTS[0]]
    for _ in range(count):
        made.append((*random.choice(STARTS), *(random.randrange(3, 8) for _ in range(random.randrange(6)))))
    random.shuffle(made)
    return made


@pytest.mark.parametrize("seed", range(4))
def test_the_cache_is_that_of_each_prompt_alone(seed: int) -> None:
    model, given = micro_model().eval(), prompts(12, seed)
    with torch.inference_mode():
        tokens_B, cache = prefill(model, given, 3)
        assert tokens_B.tolist() == [prompt[-1] for prompt in given]
        assert cache.lengths_B.tolist() == [len(prompt) - 1 for prompt in given]
        logits_BV = model.decode(tokens_B, cache)
        for number, prompt in enumerate(given):
            _, alone = prefill(model, [prompt], 3)
            for both, own in zip(cache.layers, alone.layers, strict=True):
                read = len(prompt) - 1
                assert torch.allclose(both[number, :read], own[0, :read], atol=1e-5)
            assert torch.allclose(logits_BV[number], model(torch.tensor([prompt]))[0, -1], atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_trees_hold_each_prompt_once(seed: int) -> None:
    given = list(dict.fromkeys(prompts(40, seed)))
    trees = grow(given)
    held = {number: (*tree.trunk, *branch) for tree in trees for number, branch in tree.branches.items()}
    assert held == dict(enumerate(given))
    assert sum(map(len, trees)) < sum(map(len, given))


def test_samples_of_one_dialogue_share_its_beginning_and_strangers_nothing() -> None:
    start = tuple(range(100))
    (tree,) = grow([(*start, 7, 8), start, (*start, 9)])
    assert (len(tree.trunk), len(tree)) == (100, 103)
    assert [len(tree.trunk) for tree in grow([(1, *start), (1, 0, *start)])] == [102, 101], (
        "a word in common is no reason"
    )


def test_a_tree_ends_where_its_row_is_full() -> None:
    given = [(*range(100), 200 + number, *[5] * 99) for number in range(50)]
    trees = grow(given)
    assert len(trees) > 1 and all(len(tree) <= ROW for tree in trees)
    (long,) = grow([tuple(range(2 * ROW))])
    assert len(long) == 2 * ROW
