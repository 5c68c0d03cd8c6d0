"""What the sections of a recipe need of each other: each fault is found, and its advice is accepted."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from workspace import ROOT

from k2core.recipe import RecipeError, read_recipe, validate
from stages.checks import all_needs, declared_sections, recipe_faults

Recipe = dict[str, Any]
OWN = {
    "name": "own", "kind": "jsonl", "path": "s3://own/*.jsonl", "domain": "knowledge", "license": "CC0-1.0",
    "attribution": "me", "limit": None,
}  # fmt: skip


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The current folder has what `check` reads of the project, and a file of one's own."""
    for name in ("dvc.yaml", "params.yaml", "recipes", "styles", "declarations"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.jsonl").write_text('{"text": "one"}\n')
    monkeypatch.chdir(tmp_path)


def faults_of(tmp_path: Path, *changes: Callable[[Recipe], None]) -> list[str]:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    for change in changes:
        change(content)
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return [fault.removeprefix(f"{tmp_path}/r.yaml: ") for fault in recipe_faults(tmp_path / "r.yaml")]


def put(key: str, value: Any) -> Callable[[Recipe], None]:
    """Give `key` (dotted) a value."""

    def change(content: Recipe) -> None:
        *path, last = key.split(".")
        for part in path:
            content = content[part]
        content[last] = value

    return change


def without(domain: str) -> list[Callable[[Recipe], None]]:
    """Take a domain's share from every mixture."""
    phases = [f"pretrain.{name}" for name in ("stable", "decay", "anneal", "long")] + ["extend_context"]
    return [put(f"{phase}.mixture.{domain}", 0) for phase in phases]


NO_WIKIPEDIA = put("ingest.wikipedia", {"limit": 0, "translations": {}})
NO_QUESTIONS = [put(f"questions.{name}", 0) for name in ("articles", "passages", "problems")]
NO_REWRITES = [put(f"rephrase.rewrites.{name}.documents", 0)
               for name in ("encyclopedia", "plain", "learning_note", "translate")]  # fmt: skip


def test_a_domain_without_a_source_is_found_wherever_it_is_asked_for(tmp_path: Path) -> None:
    faults = faults_of(tmp_path, NO_WIKIPEDIA)
    keys = [fault.split(" = ")[0] for fault in faults]
    assert keys == [
        *(f"pretrain.{name}.mixture.knowledge" for name in ("stable", "decay", "anneal", "long")),
        "extend_context.mixture.knowledge", "questions.articles", "questions.passages",
        *(f"rephrase.rewrites.{name}.documents" for name in ("encyclopedia", "plain", "translate")),
    ]  # fmt: skip


def test_each_training_must_accept_its_own_mesh(tmp_path: Path) -> None:
    many = [put("parallel.processes", 4), put("parallel.experts", 4)]
    assert faults_of(tmp_path, *many) == [
        "extend_context, on its mesh of section parallel: 2 rows per step cannot be shared out over 4 groups equally; "
        "the nearest that can: 4 rows",
        "critic, on its mesh of section parallel: 6 rows per step cannot be shared out over 4 groups equally; the "
        "nearest that can: 4 or 8 rows",
        "rl, on its mesh of section parallel: rl.ptx_rows: 2 rows per step cannot be shared out over 4 groups equally; "
        "the nearest that can: 4 rows",
    ]
    many += [put("critic.batch_rows", 8), put("rl.ptx_rows", 4)]
    own: dict[str, Any] = {"extend_context": {"context": 2}}
    assert faults_of(tmp_path, *many, put("parallel.stages", own)) == []
    many.append(put("parallel.stages", own | {"rl": {"pipeline": 2, "experts": 2}}))
    [piped] = faults_of(tmp_path, *many)
    assert "rl.microbatch_rows is 16, but a pipeline" in piped and piped.endswith("set it to 1")
    assert faults_of(tmp_path, *many, put("rl.microbatch_rows", 1)) == []


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        ({"pretrain": {"context": 1}}, "parallel.stages.pretrain: no such training; there are: pretrain@stable, "),
        ({"rl": {"processes": 1}}, "stages.rl: processes is the same for all stages; take it out"),
        ({"rl": {"contexts": 1}}, "stages.rl.contexts: Extra inputs are not permitted"),
        ({"rl": {"virtual": 2}}, "stages.rl: Value error, virtual 2 needs a pipeline"),
    ],
)
def test_what_a_stage_has_of_its_own_is_checked(tmp_path: Path, stages: Any, sentence: str) -> None:
    [fault] = faults_of(tmp_path, put("parallel.stages", stages))
    assert sentence in fault


def test_the_advice_is_accepted(tmp_path: Path) -> None:
    """Twice: every share and number set to 0 as the sentences say; a source of one's own in Wikipedia's place."""
    zeros = [*without("knowledge"), *NO_QUESTIONS[:2], *NO_REWRITES[:2], NO_REWRITES[3]]
    assert faults_of(tmp_path, NO_WIKIPEDIA, *zeros) == []
    assert faults_of(tmp_path, NO_WIKIPEDIA, put("ingest.files", [OWN])) == []


def test_a_source_of_files_that_is_left_out_gives_nothing(tmp_path: Path) -> None:
    assert faults_of(tmp_path, NO_WIKIPEDIA, put("ingest.files", [OWN | {"limit": 0}])) != []
    assert faults_of(tmp_path, put("ingest.mathematics.limit", 0), put("ingest.files", [OWN])) != []


def test_no_questions_and_no_rewrites_are_a_choice(tmp_path: Path) -> None:
    assert faults_of(tmp_path, *NO_QUESTIONS, *NO_REWRITES) == [
        "pretrain.anneal.mixture.qa = 0.07: there are no questions; set the share to 0 or raise questions.articles or "
        "problems"
    ]
    assert faults_of(tmp_path, *NO_QUESTIONS, *NO_REWRITES, put("pretrain.anneal.mixture.qa", 0)) == []
    assert faults_of(tmp_path, put("rephrase.rewrites", {})) == []


def test_a_message_repeats_no_password(tmp_path: Path) -> None:
    for address in ("http://me:planted@host/v1", "me:planted@host/v1", "http://host/v1?code=planted"):
        found = faults_of(tmp_path, put("llm", address), put("ingest.files", [OWN | {"path": address}]))
        assert found and "planted" not in " ".join(found), found


TIME = {"command": ["python", "-m", "mcp_server_time"], "category": "time"}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("pretrain.stable.mixture", {"wbe": 1.0}, "pretrain.stable.mixture.wbe = 1: no such domain; there are web"),
        ("pretrain.decay.schedule.lr_start", 0.5, "set it to 1"),
        ("pretrain", {}, "pretrain: no phase; give one at least"),
        ("pretrain.copy", {}, "pretrain: copy: a phase cannot have this name"),
        ("pretrain.long.context_length", 1024, "above model.max_position_embeddings, which is 512"),
        ("extend_context.context_length", 512, "rope_scaling reaches 1024"),
        ("train_tokenizer.vocab_size", 4096, "model.vocab_size is 2048"),
        ("rephrase.rewrites.haiku", {"documents": 1, "per_document": 1, "perspectives": []}, "no style of that name"),
        ("rephrase.rewrites.plain.perspectives", ["chidl"], "no chidl in styles/perspectives; there are child"),
        ("rephrase.gate", {}, "rephrase.gate.knowledge: missing; the style encyclopedia"),
        ("ingest.wikipedia.translations", {}, "rephrase.rewrites.translate.documents = 2: it translates"),
        ("curate.translate_from", [], "curate.translate_from names no language"),
        ("ingest.mathematics.limit", 0, "questions.problems = 500: no source gives problems"),
        ("curate.rules.web.attributes", {"wrods": {"min": 1}}, "curate.rules.web.attributes.wrods: no attribute"),
        ("tools.servers", {"time": TIME}, "tasks.real.git = 40: tools.servers lacks git"),
        ("tools.servers.time", {"command": ["a"], "category": "x", "ulr": "b"}, "tools.servers.time.ulr: unknown key"),
        ("tools.servers.time", {"category": "x"}, "give one of command, url and sse"),
        ("tools.declarations", "no/such", "tools.declarations = 'no/such': no such folder"),
        ("tasks.real", {"gti": 3}, "tasks.real.gti: no tasks on such a server; there are filesystem, git"),
        ("tasks.real.git", -1, "tasks.real.git = -1"),
        ("tasks.mix", {"single": 0.0}, "give at least one kind a weight above 0"),
        ("tasks.mix", {"double": 1.0}, "tasks.mix.double: no such kind of task"),
        ("tasks.richer.mix", {"single": 1.0}, "tasks.richer.mix.single: no such kind of task; there are steps, branch"),
        ("tasks.richer.mix", {"steps": 0.0}, "tasks.richer.mix: give at least one kind a weight above 0"),
        ("tasks.richer.mix", {"store": 1.0}, "tasks.richer.mix.store: tools.catalogue = 0 gives it no tools"),
        ("tasks.richer.calls", [0.0], "tasks.richer.calls: give at least one length a weight above 0"),
        ("tasks.richer.calls", [1.0] * 8, "tasks.richer.calls"),
        ("sft.demonstrations", {"sort_letters": 5}, "sft.demonstrations.sort_letters: no such environment"),
        ("critic.gym_pairs", {"sort_letters": 5}, "critic.gym_pairs.sort_letters: no such environment"),
        ("rl.pool", {"sort_letters": 50}, "rl.pool.sort_letters: no such environment; there are"),
        ("rl.ptx_demonstrations", {"sort_letters": 5}, "rl.ptx_demonstrations.sort_letters: no such environment"),
        ("extend_context.mixture", {"wbe": 1.0}, "extend_context.mixture.wbe = 1: no such domain; there are web"),
        ("pretrain.long.schedule.lr_start", 0.05, "pretrain.long.schedule.lr_start = 0.05: a jump from the end of"),
        ("rl.pool", {"sort_numbers": 8}, "rl.prompts = 32: rl.pool has 8 items in all"),
        ("export.check_tokens", 2000, "the model's context is 1024"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, key: str, value: Any, message: str) -> None:
    faults = faults_of(tmp_path, put(key, value))
    assert any(message in fault for fault in faults), faults


def test_phases_are_those_that_the_graph_trains_in_their_order(tmp_path: Path) -> None:
    def reversed_phases(content: Recipe) -> None:
        content["pretrain"] = dict(reversed(content["pretrain"].items()))

    def another(content: Recipe) -> None:
        content["pretrain"]["longer"] = content["pretrain"]["long"]

    assert any("pretrain: the phases are long, anneal, decay, stable; dvc.yaml trains stable, decay" in fault
               for fault in faults_of(tmp_path, reversed_phases))  # fmt: skip
    faults = [fault.split(";")[0] for fault in faults_of(tmp_path, another)]
    assert "pretrain: the phases are stable, decay, anneal, long, longer" in faults


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"path": "owm/*.jsonl"}, "ingest.files: own: no file is named owm/*.jsonl or fits that pattern"),
        ({"path": "own"}, "ingest.files: own: path own is a folder; say which files in it, e.g. own/**"),
        ({"kind": "huggingface", "path": "./owm"}, "ingest.files: own: there is no folder ./owm"),
        ({"path": "owm/*.jsonl", "limit": 0}, ""),
        ({"path": "s3://owm/*.jsonl"}, ""),
        ({"kind": "huggingface", "path": "own/dataset"}, ""),
        ({"path": "own/**"}, ""),
        ({"licence": "CC0-1.0"}, "ingest.files.0 (own).licence: unknown key (did you mean license?); allowed here:"),
        ({"limit": "64"}, "ingest.files.0 (own).limit = '64': a number as text"),
        ({"kind": "json"}, "ingest.files.0 (own).kind = 'json': input should be 'jsonl', 'parquet'"),
    ],
)
def test_a_source_of_ones_own(tmp_path: Path, entry: Recipe, message: str) -> None:
    faults = faults_of(tmp_path, put("ingest.files", [OWN | entry]))
    assert len(faults) == bool(message) and message in "".join(faults), faults


def test_a_key_that_is_nearly_right(tmp_path: Path) -> None:
    faults = faults_of(tmp_path, put("model.hiden_size", 128), put("modle", {}), put("rl.pool_of_nothing", 1))
    assert faults[0].startswith("model.hiden_size: unknown key (did you mean hidden_size?); allowed here: vocab_size,")
    assert faults[1].startswith("rl.pool_of_nothing: unknown key; allowed here: ")
    assert faults[2].startswith("modle: no stage reads this section (did you mean model?); there are: limits,")


def test_no_number_of_the_recipe_may_stand_in_quotes() -> None:
    """Each of them, one after the other: the sentence names it."""
    content, classes = read_recipe(ROOT / "recipes/laptop.yaml"), declared_sections()
    tried = 0
    for section, value in content.items():
        for key, parent, last in list(_numbers(value, section)):
            number, parent[last] = parent[last], str(parent[last])
            with pytest.raises(RecipeError) as caught:
                validate(classes[section], value, section)
            parent[last] = number
            assert str(caught.value).startswith(f"{key} = '{number}': a number as text"), caught.value
            tried += 1
    assert tried > 300


def _numbers(node: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    """Key and place of each number below `node`."""
    for last, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, dict | list):
            yield from _numbers(value, f"{key}.{last}")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{key}.{last}", node, last


def test_what_is_wrong_with_a_list_is_said_without_the_list(tmp_path: Path) -> None:
    assert faults_of(tmp_path, put("ingest.files", [OWN, OWN])) == [
        "ingest.files: two sources are named own; every source needs a name of its own"
    ]
    (fault,) = faults_of(tmp_path, put("rl.pool", [{"sort_numbers": 256}] * 30))
    assert fault == "rl.pool: input should be a valid dictionary"
    (fault,) = faults_of(tmp_path, put("model", ["hidden_size"] * 30))
    assert fault.startswith("model: expected a mapping with the keys ") and fault.endswith("; found a list")


@pytest.mark.parametrize("content", [None, b"", b"\n# nothing\n"])
def test_a_recipe_that_is_not_there_or_empty_is_a_sentence(tmp_path: Path, content: bytes | None) -> None:
    (tmp_path / "params.yaml").unlink()
    if content is not None:
        (tmp_path / "params.yaml").write_bytes(content)
    why = "no such file" if content is None else "nothing is in this file"
    assert recipe_faults(Path("params.yaml")) == [f"params.yaml: {why}; `make recipe NAME=laptop` writes it anew"]


def test_nothing_read_is_a_fault(tmp_path: Path) -> None:
    off = [put(f"ingest.{name}.limit", 0) for name in ("wikipedia", "python", "package_docs", "mathematics")]
    assert "ingest: every source has limit 0; raise one of the limits or give ingest.files a source" in faults_of(
        tmp_path, *off
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("hidden_size: 128", 'hidden_size: "128"', "model.hidden_size = '128': a number as text"),
        ("muon_lr: 0.006", "muon_lr: 6e-3", "optimizer.muon_lr = '6e-3': a number as text"),
        ("muon_lr: 0.006", "muon_lr: 1", ""),
        ("muon_lr: 0.006", "muon_lr: 0.006\n  muon_lr: 0.007", "key muon_lr appears twice"),
        ("control: false", 'control: "false"', "extend_context.control = 'false': input should be a valid boolean"),
    ],
)
def test_what_yaml_lets_pass(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (ROOT / "params.yaml").read_bytes()
    assert old.encode() in text
    (tmp_path / "r.yaml").write_bytes(text.replace(old.encode(), new.encode("latin-1"), 1))
    faults = recipe_faults(tmp_path / "r.yaml")
    assert len(faults) == bool(message) and message in "".join(faults), faults


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("rl: {tau: 0.2}", ""),
        ("rl: {tau: 0.2, tau: 0.3}", "gpu.yaml: not valid YAML: key tau appears twice"),
        ("rl: {tua: 0.2}", "gpu.yaml: rl.tua: unknown key (did you mean tau?); allowed here: "),
        ('model: {hidden_size: "64"}', "gpu.yaml: model.hidden_size = '64': a number as text"),
        ("model: {vocab_size: 4096}", "train_tokenizer.vocab_size = 2048: model.vocab_size is 4096; make them equal"),
        ("pretrain: {decay: {schedule: {lr_end: 0.2}}}", "pretrain.anneal.schedule.lr_start = 0.1: a jump from"),
        ("export: {name: \xe7}", "gpu.yaml: not UTF-8 text"),
        ("extend: laptop", "gpu.yaml: extend: no stage reads this section"),
    ],
)
def test_a_recipe_that_extends_another_is_checked_as_a_whole(tmp_path: Path, own: str, message: str) -> None:
    shutil.copyfile(ROOT / "recipes/laptop.yaml", tmp_path / "laptop.yaml")
    (tmp_path / "gpu.yaml").write_bytes(f"extends: laptop\n{own}\n".encode("latin-1"))
    faults = recipe_faults(tmp_path / "gpu.yaml")
    assert len(faults) == bool(message) and message in "".join(faults), faults


def test_every_file_of_needs_is_found() -> None:
    files = {path.stem for path in (ROOT / "stages/needs").glob("*.py")} - {"__init__"}
    assert {need.__module__.rpartition(".")[2] for need in all_needs()} == files
