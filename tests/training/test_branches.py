"""Responses as branches of their prompt: the same losses and gradients as each for itself, in fewer positions."""

import pytest
import torch
from micro import micro_model

from k2core.data.rows.batch import IGNORE
from k2core.data.rows.packing import pack_rows
from k2core.model.loss import token_losses
from k2core.ops import BRANCH
from k2core.training.branches import grow, trees_to_batch
from k2core.training.dialogues import Dialogue, dialogues_to_batch

PROMPTS = {(3, 4, 5, 6, 7): 3, (4,): 2, (7, 3): 4}
"""Prompt → how many responses it has."""


def responses() -> list[tuple[tuple[int, ...], Dialogue]]:
    """Responses of one token and more, some with what an environment said between."""
    made = []
    for prompt, count in PROMPTS.items():
        for number in range(count):
            tokens = [(sum(prompt) + 2 * number + place) % 5 + 3 for place in range(1 + 2 * number)]
            made.append((prompt, Dialogue(tokens, [0 if place == 1 else 1 for place in range(len(tokens))])))
    return made


def test_a_row_holds_the_prompt_once() -> None:
    made = {7: Dialogue([6, 2], [1, 1]), 8: Dialogue([9, 5, 2], [1, 0, 1]), 1: Dialogue([9], [1])}
    trees = grow((8,), {1: made[1]}, 9) + grow((3, 4, 5), {7: made[7], 8: made[8]}, 9)
    batch, sequence = trees_to_batch(trees, made, [[1, 0]])
    assert batch.tokens_BT.tolist() == [[3, 4, 5, 6, 5, 9, 5, 8]]
    assert batch.positions_BT.tolist() == [[0, 1, 2, 3, 2, 3, 4, 0]]
    assert batch.segments_BT.tolist() == [[0, 0, BRANCH, BRANCH, 2 * BRANCH, 2 * BRANCH, 2 * BRANCH, BRANCH + 1]]
    assert batch.targets_BT.tolist() == [[IGNORE, IGNORE, 6, 2, 9, IGNORE, 2, 9]]
    assert sequence.tolist() == [[-1, -1, 7, 7, 8, -1, 8, 1]]
    padded, _ = trees_to_batch(trees, made, [[0], [1]])
    assert padded.segments_BT[0].tolist() == [BRANCH] + [1] * 6


@pytest.mark.parametrize("context", [9, 12, 64])
def test_losses_and_gradients_are_those_of_whole_dialogues(context: int) -> None:
    made = responses()
    torch.manual_seed(1)
    model = micro_model().train()
    weights_N = torch.linspace(-1, 1, len(made))

    def gradients(batch, sequence_BT):
        model.zero_grad()
        logits = model(batch.tokens_BT, batch.positions_BT, batch.segments_BT)
        found = sequence_BT >= 0
        losses_N = torch.zeros(len(made)).index_add(
            0, sequence_BT[found], token_losses(logits[found], batch.targets_BT[found])
        )
        (losses_N * weights_N).sum().backward()
        grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        return losses_N.detach(), grads, batch.tokens_BT.numel()

    whole = [
        Dialogue([*prompt, *response.tokens], [0] * len(prompt) + list(response.mask)) for prompt, response in made
    ]
    wanted, slopes, positions = gradients(*dialogues_to_batch(whole, pack_rows([len(d.tokens) for d in whole], 64)))
    trees = [
        tree
        for prompt in PROMPTS
        for tree in grow(prompt, {n: response for n, (own, response) in enumerate(made) if own == prompt}, context)
    ]
    assert all(len(tree) <= context for tree in trees)
    assert [number for tree in trees for number in tree.branches] == list(range(len(made)))
    found, found_slopes, fewer = gradients(
        *trees_to_batch(trees, dict(enumerate(r for _, r in made)), pack_rows([len(tree) for tree in trees], context))
    )
    assert torch.allclose(found, wanted, atol=1e-5)
    for name, slope in slopes.items():
        assert torch.allclose(found_slopes[name], slope, atol=1e-5), name
    assert context < 64 or fewer < positions


def test_a_branch_sees_nothing_of_its_siblings() -> None:
    model = micro_model().eval()
    first = Dialogue([6, 7, 3], [1, 1, 1])

    def logits_of_first(sibling: list[int]) -> torch.Tensor:
        both = {1: Dialogue(sibling, [1] * len(sibling)), 0: first}
        batch, sequence = trees_to_batch(grow((3, 4, 5), both, 64), both, [[0]])
        return model(batch.tokens_BT, batch.positions_BT, batch.segments_BT)[sequence == 0]

    assert torch.equal(logits_of_first([3, 3, 3, 3]), logits_of_first([7, 7, 6, 6]))


def test_a_response_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"3 \+ 4 tokens exceed 5"):
        grow((3, 4, 5), {0: Dialogue([1, 2, 3, 4], [1] * 4)}, 5)
