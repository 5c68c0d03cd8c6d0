"""The table of whole dialogues: the five kinds, then the richer ones; the enforced ones are no rows of it."""

from __future__ import annotations

from k2core.report.played import of_a_group, table


def test_the_richer_kinds_have_rows_of_their_own() -> None:
    names = ["dialogues/greedy", "dialogues/greedy/chain", "enforced_dialogues/greedy", "richer_dialogues/greedy",
             "richer_dialogues/greedy/steps"]  # fmt: skip
    cards = {model: {name: {"value": n / 10} for n, name in enumerate(names)} for model in ("base", "sft", "rl")}
    found = table(cards)
    assert found is not None
    values = {row["group"]: [cell and cell[0]["value"] for cell in row["cells"]] for row in found["rows"]}
    assert values == {"all": [0.0], "chain": [0.1], "richer kinds": [0.3], "steps": [0.4]}
    assert [of_a_group(name) for name in names] == [False, True, False, False, True]
