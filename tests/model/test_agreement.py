"""Two implementations are compared where rounding does not choose the experts, and wrong weights are still found."""

from __future__ import annotations

import copy

import torch

from k2core.formats.agreement import TIE, logit_difference, margin

TOKENS_BT = torch.randint(0, 96, (4, 48), generator=torch.Generator().manual_seed(0))


def test_a_tie_that_the_other_decides_differently_is_left_out(build) -> None:
    model = build()
    router = model.routers()[0]
    with torch.no_grad():  # experts 0 and 1 have equal scores for every token
        router.weight[1] = router.weight[0]
        router.e_score_correction_bias[:2] = 0.0
    other = copy.deepcopy(model)
    for expert, one in enumerate((model, other)):
        one.routers()[0].e_score_correction_bias[expert] += TIE / 10
    ours, theirs = model(TOKENS_BT), other(TOKENS_BT)
    assert float((ours - theirs).abs().max()) > 1e-2, "the tie is seen"
    difference, compared = logit_difference(model, other, TOKENS_BT)
    assert difference < 1e-4 and 0 < compared < 1


def test_wrong_weights_are_found(build) -> None:
    model = build()
    assert logit_difference(model, model, TOKENS_BT) == (0.0, 1.0)
    for name in ("layers.2.mlp.gate.weight", "layers.1.self_attn.o_proj.weight", "embed_tokens.weight"):
        wrong = copy.deepcopy(model)
        with torch.no_grad():
            wrong.get_parameter(name)[0] += 0.5
        assert logit_difference(model, wrong, TOKENS_BT)[0] > 1e-2, name


def test_nothing_to_compare_is_no_agreement(build) -> None:
    model = build()
    with torch.no_grad():
        for router in model.routers():
            router.weight.zero_()
            router.e_score_correction_bias.zero_()
    assert logit_difference(model, model, TOKENS_BT) == (torch.inf, 0.0)


def test_the_margin_is_between_the_last_chosen_and_the_first_left_out(build) -> None:
    router = build().routers()[0]
    x_ND = torch.randn(7, router.weight.shape[1], generator=torch.Generator().manual_seed(1))
    scores_NE = (x_ND @ router.weight.T).sigmoid() + router.e_score_correction_bias
    ordered = scores_NE.sort(dim=1, descending=True).values
    assert torch.allclose(margin(router, x_ND), ordered[:, 1] - ordered[:, 2], atol=1e-6)
    assert not margin(build(num_experts_per_tok=4).routers()[0], x_ND).isfinite().any()
