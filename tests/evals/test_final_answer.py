"""An answer is found behind its explanation, a wrong one too, and two at once are none."""

from __future__ import annotations

import pytest

from k2core.chat.special_tokens import IM_END
from k2core.evals.final_answer import NUMBER, YES_NO, final, stated
from k2core.evals.suites import arithmetic, logic, needles


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("Yes", "yes"), ("No.", "no"), ("**Yes**", "yes"), ("no, it does not", "no"), ("No it does not.", "no"),
        ("Yes, because no cats are dogs.", "yes"),
        ("No cats are dogs and all dogs bark.\n\nSo nothing follows.\n\nNo", "no"),
        ("Premise 1: no cats are dogs.\nLet us see.\nThe answer is Yes.", "yes"),
        ("The final answer is: **No**, since all dogs bark.", "no"),
        ("**Answer:** Yes\n\nNo cats are dogs, so no dog is a cat.", "yes"),
        ("All of them are. Hence \\boxed{Yes}", "yes"), ("It follows. #### Yes", "yes"),
        ("So the answer to whether it follows is No.", "no"),
        # both, or neither
        ("Yes or No", None), ("Yes and no.", None), ("Yes/No", None), ("Yes. No.", None), ("No\nYes", None),
        ("Yes, it follows. But then again, no.", None), ("The answer is Yes or No.", None),
        ("The answer is Yes.\nThe answer could be No.", None), ("\\boxed{Yes} \\boxed{No}", None),
        ("Answer with Yes or No alone.", None), ("It follows.", None), ("", None), ("No cats are dogs.", None),
        ("Nobody knows; yesterday they did", None),
    ],
)  # fmt: skip
def test_yes_or_no(reply: str, answer: str | None) -> None:
    assert stated(reply, YES_NO) == answer


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("11", 11), ("-5.", -5), ("−5", -5), ("1,234", 1234), ("$11$", 11), ("11.0", 11), ("5 + 6 = 11", 11),
        ("First 5 + 6 = 11. Then 11 - 2 = 9.", 9), ("The sum of 5 and 6 is 11.", 11), ("3 - 8 = -5", -5),
        ("5 + 6 makes 11.\n#### 11", 11), ("We add 5 and 6.\nSo the answer is \\boxed{11}.", 11),
        ("We add 5 and 6, then subtract 2.\n\n**9**", 9), ("The answer to 5 + 6 is 11, because 5 and 5 are 10.", 11),
        ("11 or 12", None), ("It is 11 or 12.", None), ("The answer is 11. The answer is 12.", None), ("11\n12", None),
        ("5 + 6 =", None), ("eleven", None), ("", None), ("5 and 6", None), ("A11", None),
    ],
)  # fmt: skip
def test_a_number(reply: str, answer: float | None) -> None:
    assert stated(reply, NUMBER) == (None if answer is None else str(float(answer)))


@pytest.mark.parametrize("suite", [logic, arithmetic])
def test_explained_right_passes_explained_wrong_and_hedged_fail(suite) -> None:
    environment = suite.make(None)
    for index in range(12):
        item = environment.item(1, "heldout", index)
        right = item.gold["content"]
        wrong = {"Yes": "No", "No": "Yes"}.get(right) or str(int(right) + 1)
        why = f"Let us think. {item.messages[-1]['content']}\nIn step 1 we look at each part, no more and no less."
        for reply, score in (
            (f"{why}\nThe answer is {right}.", 1), (f"{why}\n\n{right}", 1), (f"\\boxed{{{right}}}\n{why}", 1),
            (f"{why}\nThe answer is {wrong}.", 0), (f"{why}\n\n{wrong}", 0), (why, 0),
            (f"The answer is {right}. The answer is {wrong}.", 0), (f"{right} or {wrong}", 0),
        ):  # fmt: skip
            assert environment.score(item, reply + IM_END) == score, reply


def test_a_marked_answer_may_follow_a_long_explanation() -> None:
    environment = needles.make(None)
    item = environment.item(1, "heldout", 0)
    text, number = item.messages[-1]["content"], item.gold["content"]
    assert environment.score(item, f"{text}\nAnswer: {number}") == 1
    assert environment.score(item, f"{text}\nAnswer: {int(number) + 1}") == 0
    assert environment.score(item, text) == 0
    assert final("Long words.\nThe answer is Paris, as said. It is far.") == "Paris, "
    assert final("Paris") == "Paris"
