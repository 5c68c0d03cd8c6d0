"""The block of the evening recipe in docs/measurements.md, from a workspace whose figures are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from benchmarks import chain, evening, harness
from k2core.corpus.documents import DOMAINS
from k2core.report.curves import YARDSTICKS

STAGES = (*(f"pretrain-{phase}" for phase in ("stable", "decay", "anneal", "long")), "extend_context")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five phases of 3M tokens, each a tenth of a bit better; the yardsticks lie at 2.4, 2.3, 2.2."""
    (tmp_path / "metrics").mkdir(), (tmp_path / "plots").mkdir()
    suffixes = ["", *(f"/{domain}" for domain in DOMAINS)]

    def write(stage: str, figures: dict[str, float]) -> None:
        (tmp_path / "metrics" / f"{stage}.json").write_text(json.dumps(figures))

    yardsticks = enumerate(YARDSTICKS)
    write("tokenize", {f"yardstick/{name}{s}": 2.4 - place / 10 for place, name in yardsticks for s in suffixes})
    for place, stage in enumerate(STAGES, 1):
        bits = {s: 3 - place / 10 - 0.01 * at for at, s in enumerate(suffixes)}
        before = {f"heldout/bits_per_byte_before{s}": 4.5 for s in suffixes} if place == 1 else {}
        figures = {f"heldout/bits_per_byte{s}": value for s, value in bits.items()}
        long = {f"{m}/nats_per_token/position_512-1024": 3.0 + at for at, m in enumerate(evening.MODELS)}
        long |= {f"{m}/copy_gain/distance_960{end}": 0.5 for m in evening.MODELS for end in ("", "/low", "/high")}
        name = "after_over_without_yarn/nats_saved/position_512-1024"
        long |= {name: 1.0, f"{name}/low": 0.9, f"{name}/high": 1.1}
        write(stage, {**before, **figures, **long, "train/tokens_seen": 3e6 * place})
        header = ",".join(["step", "train/tokens_seen", *(f"val/bpb{s}" for s in suffixes)])
        rows = [
            f"10,{3e6 * place - 1.5e6:.6g}," + "," * (len(suffixes) - 1),
            f"20,{3e6 * place:.6g}," + ",".join(f"{value:.6g}" for value in bits.values()),
        ]
        (tmp_path / "plots" / f"{stage}.csv").write_text("\n".join([header, *rows]) + "\n")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "measurements.md").write_text("above\n<!-- evening:begin -->\n<!-- evening:end -->\nbelow\n")
    (tmp_path / "evening.log").write_text("[ingest] done in 8.0 s\nthe chain took 7080 s\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(harness, "ROOT", tmp_path)
    return tmp_path


def test_the_block_is_written_from_the_workspace(workspace: Path) -> None:
    chain.main(workspace / "evening.log", "evening", None, None)
    text = (workspace / "docs" / "measurements.md").read_text()
    assert text.startswith("above\n<!-- evening:begin -->\nWhat follows YaRN was not run") and text.endswith(
        "\nbelow\n"
    )
    assert "from raw text to there it took 118 minutes." in text
    assert "| all | 4.500 | 2.900 | 2.800 | 2.700 | 2.600 | 2.500 | 2.400 | 2.300 | 2.200 |" in text
    assert "| code | 4.500 | 2.880 |" in text
    assert "| million tokens | 0 | 3.0 | 6.0 | 9.0 | 12.0 | 15.0 | | | |" in text
    table = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 8 + 4 and len(set(table[:8])) == len(set(table[8:])) == 1
    assert "| position 512-1024 | 3.000 | 4.000 | 5.000 | 6.000 | +1.000 (+0.900 to +1.100) |" in text
    assert "| copy gain, distance 960 | 0.500 | 0.500 | 0.500 | 0.500 |  |" in text
    assert (workspace / "docs" / "evening-curves.svg").read_text().startswith("<?xml")


def test_a_whole_chain_is_called_so(workspace: Path) -> None:
    (workspace / "metrics" / "evaluate-rl.json").write_text("{}")
    assert evening.block(7080, workspace, workspace / "a.svg")[0].startswith("The chain took 118 minutes.")


def test_the_picture_repeats(workspace: Path) -> None:
    for name in ("a.svg", "b.svg"):
        evening.block(7080, workspace, workspace / name)
    assert (workspace / "a.svg").read_bytes() == (workspace / "b.svg").read_bytes()


def test_what_is_missing_is_said(workspace: Path) -> None:
    with pytest.raises(typer.BadParameter, match="--again and --tests"):
        chain.main(workspace / "evening.log", "chain", None, None)
    for path in (workspace / "plots").iterdir():
        path.write_text("step,train/loss\n1,2.0\n")
    with pytest.raises(ValueError, match="no curve has val/bpb"):
        evening.block(7080, workspace, workspace / "c.svg")
    assert not (workspace / "c.svg").exists()
