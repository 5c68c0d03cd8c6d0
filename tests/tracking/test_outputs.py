"""What a person finds among the artifacts of a stage: small files, and pages about large ones."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from k2core.tracking import outputs
from k2core.tracking.output_page import page
from k2core.tracking.outputs import described, preview
from k2core.tracking.runs import MOST_PARAMETERS, PipelineRuns


def now() -> int:
    return int(time.time() * 1000)


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An output of every kind."""
    monkeypatch.chdir(tmp_path)
    folder = Path("data/made")
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"id": list(range(30)), "text": ["<b>" + "x" * 400] * 30}), folder / "rows.parquet")
    save_file({"w": torch.zeros(2, 3)}, folder / "model.safetensors")
    (folder / "tokens.bin").write_bytes(bytes(range(64)))
    (folder / "torn.parquet").write_bytes(b"PAR1")
    (folder / "long.jsonl").write_text('{"a": 1}\n{"b": [2]}\n' * 20)
    (folder / "small.json").write_text("{}")
    monkeypatch.setattr(outputs, "SMALL", 100)
    return folder


def test_small_files_are_copied_and_large_ones_previewed(made: Path) -> None:
    found = described(made)
    assert found["count"] == 6 and found["bytes"] == sum(file.stat().st_size for file in made.iterdir())
    by_name = {Path(file["path"]).name: file for file in found["files"]}
    assert "changed" in by_name["small.json"] and "preview" not in by_name["small.json"]
    rows = by_name["rows.parquet"]["preview"]
    assert (rows["about"], rows["columns"], len(rows["rows"])) == ("30 rows", ["id: int64", "text: string"], 10)
    assert len(rows["rows"][0][1]) == outputs.CELL
    assert by_name["model.safetensors"]["preview"]["rows"] == [["w", "F32", "[2, 3]"]]
    assert by_name["tokens.bin"]["preview"]["rows"][0][0].startswith("00 01 02")
    assert by_name["long.jsonl"]["preview"]["rows"][:2] == [["1", ""], ["", "[2]"]]
    assert by_name["torn.parquet"]["preview"]["about"].startswith("no preview: Arrow")
    shown = page(found)
    assert "&lt;b&gt;" in shown and "<b>" not in shown and "small.json" in shown and "copied" in shown


def test_a_long_list_is_cut_and_a_missing_file_has_no_preview(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "MOST_FILES", 2)
    assert "and 4 more" in page(described(made))
    assert "no preview" in preview(made / "gone.parquet")["about"]


def test_artifacts_traces_and_descriptions_of_a_stage(made: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store / 'mlflow.db'}")
    (store / "params.yaml").write_text("pretrain: {}\n")
    runs = PipelineRuns(store)
    changed = {f"rl.key{number}": ("1", "2") for number in range(300)}
    runs.begin({"recipe": {"base": "laptop", "changed": changed}, "invocation": "i", "pid": 1, "time": now()})
    about = "What it does."
    start = {"stage": "sft", "time": now(), "params": {}, "inputs": {}, "about": about}
    run = runs.start_stage("1", start, watch=False)
    told = json.loads(json.dumps({"root": str(store), "outputs": [described(made)]}))
    (made / "small.json").write_text('{"of": "a later run"}')
    runs.outputs("1", told)
    assert [item.path for item in runs.client.list_artifacts(run, "data")] == ["data/made.html"]
    runs.outputs("1", {"root": str(store), "outputs": [described(made)]})
    assert {item.path for item in runs.client.list_artifacts(run, "data/made")} == {"data/made/small.json"}
    messages = [
        {"role": "user", "content": "Add milk"},
        {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]},
        {"role": "tool", "content": "done", "tool_call_id": "functions.add:0"},
        {"role": "assistant", "content": "It is there."},
    ]
    runs.trace("1", {"name": "trajectory, accepted", "messages": messages, "about": {"score": 1.0}, "time": now()})
    runs.end_stage("1", {"status": "FINISHED", "error": "", "time": now()})
    assert runs.client.get_run(run).data.tags["mlflow.note.content"] == about
    (trace,) = runs.client.search_traces(locations=[runs.experiment_id], run_id=run)
    assert [span.name for span in trace.data.spans] == ["trajectory, accepted", *(m["role"] for m in messages)]
    assert trace.data.spans[0].inputs == "Add milk" and trace.data.spans[0].outputs == messages[-1]
    assert trace.info.tags["stage"] == "sft"
    runs.finish({"lock": [], "metrics": {}, "time": now()})
    parent = runs.client.get_run(runs.parent).data
    assert len(parent.params) == MOST_PARAMETERS + 1
    assert len(parent.params) + len(parent.metrics) + len(parent.tags) < 100
    assert os.environ["MLFLOW_TRACKING_URI"] == runs.uri, "the user's setting is as it was"
