"""The models of runs in MLflow: logged, registered, loaded by name; the alias follows the better scorecard."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from dvc.repo import Repo
from mlflow.tracking import MlflowClient
from workspace import ROOT

from k2core.chat.jinja_template import CHAT_TEMPLATE
from k2core.chat.tokenizer import Tokenizer
from k2core.formats.huggingface import save_huggingface
from k2core.model.config import ModelConfig
from k2core.model.transformer import Transformer
from k2core.storage import StorageError, dvc_md5, write_json
from k2core.tracking.champion import MOVED, STAYS, decide
from k2core.tracking.generation import Generator
from k2core.tracking.recorder import last_words
from k2core.tracking.reference import resolve
from k2core.tracking.runs import PipelineRuns

GRAPH = """\
stages:
  rl: {cmd: "true", deps: [data/tasks, data/tokens], outs: [models/rl]}
  evaluate: {foreach: [rl], do: {cmd: "true", deps: [models/rl, data/tasks], outs: [data/evals/rl]}}
  export: {cmd: "true", deps: [models/rl], outs: [models/export]}
"""
FIGURES = {"rl": {"train/loss": 1.5}, "evaluate@rl": {"tasks/pass_rate": 0.5}, "export": {"export/parameters": 7.0}}


def items(passed: float, exact: float = 0.5) -> dict[str, Any]:
    return {
        name: {"sort": [mean + 0.1 * (number % 3 - 1) for number in range(30)]}
        for name, mean in (("tasks/pass_rate", passed), ("tool_calls/exact", exact))
    }


@dataclass
class Chain:
    """A workspace in which the stages are played: their outputs are written, committed and recorded."""

    root: Path
    tokenizer: Path

    def run(self, seed: int, passed: float, exact: float = 0.5, tasks: str = "as ever") -> tuple[PipelineRuns, Any]:
        """One pipeline run whose model has the weights of `seed` and these values of its items."""
        (self.root / "data" / "tasks").write_text(tasks)
        torch.manual_seed(seed)
        model = Transformer(CONFIG)
        folder = self.root / "models" / "export"
        shutil.rmtree(folder, ignore_errors=True)
        save_huggingface(model, folder, eos_token_ids=[1])
        for file in self.tokenizer.iterdir():
            shutil.copy(file, folder)
        write_json(self.root / "models" / "rl" / "config.json", {"hidden_size": 32, "rope_scaling": None})
        (self.root / "models" / "rl" / "model.safetensors").write_bytes(bytes([seed]))
        write_json(self.root / "data" / "evals" / "rl" / "items.json", items(passed, exact))
        write_json(self.root / "data" / "evals" / "rl" / "scorecard.json", {"scores": {}})
        with contextlib.chdir(self.root), Repo(".") as repo:
            repo.commit(force=True)
        runs = PipelineRuns(self.root)
        runs.begin({"recipe": {"base": "laptop", "changed": {}}, "invocation": "i", "pid": 1, "time": now()})
        for number, (stage, figures) in enumerate(FIGURES.items()):
            key = str(number)
            runs.start_stage(key, {"stage": stage, "time": now(), "params": {}, "inputs": {}}, watch=False)
            runs.metrics(key, {"values": figures, "step": 0, "time": now()})
            runs.end_stage(key, {"status": "FINISHED", "error": "", "time": now()})
        words = last_words(self.root)
        runs.finish(words)
        return runs, words


CONFIG = ModelConfig(
    vocab_size=600, hidden_size=32, intermediate_size=48, moe_intermediate_size=16, num_hidden_layers=2,
    num_attention_heads=2, attention="mla", q_lora_rank=16, kv_lora_rank=12, qk_nope_head_dim=8,
    qk_rope_head_dim=8, v_head_dim=12, n_routed_experts=4, num_experts_per_tok=2, n_shared_experts=1,
    first_k_dense_replace=1, routed_scaling_factor=2.827, rope_theta=50000.0, rope_scaling=None,
    max_position_embeddings=512, rms_norm_eps=1e-6, initializer_range=0.2,
)  # fmt: skip


def now() -> int:
    return int(time.time() * 1000)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Chain]:
    root = tmp_path_factory.mktemp("chain")
    shutil.copy(empty_store, root)
    for folder in ("data", "models/rl", "data/evals/rl"):
        (root / folder).mkdir(parents=True)
    (root / "dvc.yaml").write_text(GRAPH)
    (root / "params.yaml").write_text("pretrain: {}\n")
    (root / "data" / "tokens").write_text("tokens")
    Repo.init(str(root), no_scm=True).close()
    tokenizer = tmp_path_factory.mktemp("tokenizer")
    Tokenizer.train([path.read_text() for path in sorted(Path(json.__file__).parent.glob("*.py"))], 600).save(tokenizer)
    (tokenizer / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    patch = pytest.MonkeyPatch()
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    yield Chain(root, tokenizer)
    patch.undo()
    mlflow.set_tracking_uri(None)


def loaded(chain: Chain, name: str) -> Generator:
    mlflow.set_tracking_uri(f"sqlite:///{chain.root / 'mlflow.db'}")
    return mlflow.pyfunc.load_model(f"models:/{name}", suppress_warnings=True)


def test_a_run_fills_the_models_page_and_the_registry(chain: Chain) -> None:
    runs, words = chain.run(seed=1, passed=0.5)
    client = runs.client
    found = {model.name: model for model in client.search_logged_models([runs.experiment_id])}
    assert set(found) == {"rl", "export"}
    policy = found["rl"]
    assert (policy.status.name, policy.params["hidden_size"]) == ("READY", "32")
    assert policy.tags["k2.md5"] == dvc_md5(chain.root / "models" / "rl")
    assert "stage `rl`" in policy.tags["mlflow.note.content"]
    told = {(metric.key, metric.dataset_name): metric.value for metric in policy.metrics}
    assert told[("train/loss", "data/tokens")] == 1.5 and told[("tasks/pass_rate", "data/tasks")] == 0.5
    files = {item.path for item in client.list_logged_model_artifacts(found["export"].model_id)}
    assert {"MLmodel", "reference.json", "lineage.svg", "config.json", "items.json", "tokenizer.json"} <= files
    assert "model.safetensors" not in files, "DVC owns the weights"
    made = client.get_run(runs.stages["export"])
    assert [model.model_id for model in made.inputs.model_inputs] == [policy.model_id]
    assert [model.model_id for model in made.outputs.model_outputs] == [found["export"].model_id]
    assert len(client.get_run(runs.parent).outputs.model_outputs) == 2
    version = client.get_model_version_by_alias("k2", "champion")
    assert version.version == 1 and "there was no champion" in version.description
    assert "models:/k2@champion" in client.get_registered_model("k2").description

    runs.finish(words)  # MLflow failed in the middle of it: nothing is recorded twice
    assert len(client.search_logged_models([runs.experiment_id])) == 2
    assert len(client.search_model_versions("name = 'k2'")) == 1
    references = mlflow.artifacts.load_dict(f"{made.info.artifact_uri}/references.json")
    assert [entry["path"] for entry in references["outputs"]] == ["models/export"]
    assert references["outputs"][0]["bytes"] > 10_000


def test_the_alias_moves_to_what_is_better_on_the_same_items_and_every_version_loads(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After the test above: version 1 is the champion."""
    first = loaded(chain, "k2@champion").predict(["Hello"], params={"max_new_tokens": 4})
    assert len(first) == 1 and isinstance(first[0], str)
    client = MlflowClient(f"sqlite:///{chain.root / 'mlflow.db'}")
    for seed, values, champion, words in (
        (2, {"passed": 0.5}, 1, "within noise"),
        (3, {"passed": 0.9, "exact": 0.1}, 1, "worse than version 1 in tool_calls/exact"),
        (4, {"passed": 0.9, "tasks": "others"}, 1, "measured on other tasks"),
        (5, {"passed": 0.8}, 5, "+0.300"),
    ):
        runs, _ = chain.run(seed, **values)
        version = client.get_model_version("k2", str(seed))
        assert words in version.description, version.description
        assert client.get_model_version_by_alias("k2", "champion").version == champion
        decided = mlflow.artifacts.load_dict(client.get_run(runs.stages["export"]).info.artifact_uri + "/champion.json")
        assert decided["alias"] == (MOVED if champion == seed else STAYS)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    again = loaded(chain, "k2/1").predict([[{"role": "user", "content": "Hello"}]], params={"max_new_tokens": 4})
    assert again == first, "from DVC's cache: the workspace has version 5 by now"


def test_garbage_collection_keeps_what_registered_models_need(chain: Chain, tmp_path: Path) -> None:
    """After the tests above: five versions, one of which is in the workspace."""
    client = MlflowClient(f"sqlite:///{chain.root / 'mlflow.db'}")
    needed = {version.tags["k2.md5"] for version in client.search_model_versions("name = 'k2'")}
    policies = {model.tags["k2.md5"] for model in client.search_logged_models(["1"], "name = 'rl'")}
    assert len(needed) == len(policies) == 5
    words = [sys.executable, "-m", "k2core.tracking.clean", "--workspace", "--force"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=chain.root, env=environment, capture_output=True, text=True, check=True)
    assert "5 registered versions are kept" in done.stdout
    for number, md5 in enumerate(needed):
        assert (resolve(chain.root, "", md5, tmp_path / str(number)) / "model.safetensors").exists()
    gone = policies - {dvc_md5(chain.root / "models" / "rl")}
    for md5 in gone:
        with pytest.raises(StorageError, match=rf"{md5} is neither .* `dvc push` copies it"):
            resolve(chain.root, "models/rl", md5, tmp_path / md5)


def test_what_cannot_be_compared_leaves_the_alias() -> None:
    assert decide(items(0.9), None).alias == MOVED
    assert decide({}, items(0.1), "1").alias == decide(items(0.9), {}, "1").alias == STAYS
    fewer = {"tasks/pass_rate": {"sort": [0.0] * 5}}
    assert "other items" in decide(items(0.9), fewer, "1").reason
