"""The four trainings of `benchmarks/per_head.py` at the micro recipe, and the table that they become."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import yaml
from workspace import ROOT

from benchmarks import per_head
from k2core.data.rows.shards import TokenizedDocument, write_shards
from k2core.recipe import read_recipe

MARKS = "<!-- per_head:begin -->\n<!-- per_head:end -->\n"


def test_four_trainings_become_a_table(tmp_path: Path) -> None:
    """At a τ that every head exceeds, so that the two rules differ."""
    random = Random(0)
    write_shards(
        tmp_path / "data/tokens",
        (
            TokenizedDocument(split, "web", [random.randrange(1, 500) for _ in range(300)], 900)
            for split in ["heldout"] + ["train"] * 30
        ),
        vocab_size=512, eos_id=0,
    )  # fmt: skip
    recipe = read_recipe(ROOT / "recipes/micro.yaml")
    recipe["pretrain"]["stable"]["mixture"] = {"web": 1.0}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    page, results = tmp_path / "page.md", tmp_path / "per_head.json"
    page.write_text(MARKS)
    per_head.main(tmp_path, steps=20, batch_tokens=256, rate=1.0, threshold=1e-3, seeds=1, page=page, results=results)
    found = json.loads(results.read_text())
    by_cell = {(row["per_head"], row["qk_clip"]): row for row in found["rows"]}
    assert list(by_cell) == per_head.CELLS
    for (_, clipped), row in by_cell.items():
        assert (row["heads_clipped"] > 0) == (row["gamma"] < 1) == clipped
        assert len(row["logits"]) == 2 and 0 < row["bits"] < 16
    assert by_cell[False, False]["bits"] != by_cell[True, False]["bits"] != by_cell[True, True]["bits"]
    text = page.read_text()
    assert text == f"{MARKS[:24]}{per_head.markdown(found)}\n{MARKS[24:]}"
    assert sum(line.startswith(("| whole", "| by heads")) for line in text.splitlines()) == 4
