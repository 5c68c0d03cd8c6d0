"""`python -m benchmarks gpu` on a CPU, at sizes of seconds, in a Python that has only what a bare GPU box has."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from workspace import ROOT

from benchmarks import gpu
from benchmarks.gpu import fast, right

RUN = """
import importlib.metadata, importlib.util, re, sys
from importlib.abc import MetaPathFinder
packages = importlib.metadata.packages_distributions()
needed, todo = set(), {"torch", "numpy", "pydantic", "PyYAML", "safetensors", "pyarrow", *sys.argv[1].split()}
while todo:
    name = todo.pop()
    needed.add(name.lower().replace("_", "-"))
    for requirement in importlib.metadata.requires(name) or ():
        other = re.match(r"[\\w.-]+", requirement)[0].lower().replace("_", "-")
        if "extra ==" not in requirement and other not in needed:
            try:
                importlib.metadata.version(other)
                todo.add(other)
            except importlib.metadata.PackageNotFoundError:
                pass
def missing(name):
    owners = packages.get(name.partition(".")[0], ())
    return bool(owners) and not any(owner.lower().replace("_", "-") in needed for owner in owners)
class Missing(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if missing(name):
            raise ModuleNotFoundError(f"a bare GPU box has no {name}", name=name)
sys.meta_path.insert(0, Missing())
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if missing(name) else find(name, package)
from benchmarks.gpu import main
sys.exit(main(sys.argv[2:]))
"""


def check(
    folder: Path, *words: str, extra: str = "transformers"
) -> tuple[subprocess.CompletedProcess[str], list[dict]]:
    out = folder / "gpu.json"
    command = [sys.executable, "-c", RUN, extra, "--device", "cpu", "--small", "--out", str(out), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    return done, json.loads(out.read_text())


def test_every_part_runs_on_a_bare_box(tmp_path: Path):
    done, rows = check(tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    names = {row["name"] for row in rows}
    assert all(row["met"] is not False for row in rows)
    for part in (
        "experts, bfloat16", "model, bf16: gradients", "50 steps, bf16 against fp32", "pretrain, a few steps in bf16",
        "extend_context, a few steps in bf16", "sft and critic, a few steps in bf16", "rl, a few steps in bf16",
        "evaluate, a few steps in bf16", "resumed training", "sampling in a graph against without",
        "export: logits in transformers", "forward + backward, G", "forward + backward, K2's widths",
        "training loop over its parts, G", "checkpoint: training waits", "torch.optim.Muon over MuonClip",
        "ours over transformers, eager, G", "decoding over transformers' generate",
    ):  # fmt: skip
        assert part in names
    assert len(done.stdout.splitlines()) == len(rows)


def test_a_run_that_is_cut_short_leaves_what_it_found(tmp_path: Path):
    done, rows = check(tmp_path, "--seconds", "1", extra="")
    assert rows[0]["name"] == "machine" and rows[-1] == rows[-1] | {"name": "time", "value": "up"}
    assert done.returncode == 0 and not any("GPU box has no" in row["note"] for row in rows)


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_the_file_says_so(tmp_path: Path, monkeypatch, capsys, handlers, signum):
    """Even where a part lets nothing through but what it expects."""

    def first(found) -> None:
        found.note("first", 1.0)

    def second(found) -> None:
        with suppress(Exception, KeyboardInterrupt):
            os.kill(os.getpid(), signum)
        found.note("second", 2.0)

    monkeypatch.setattr(right, "PARTS", (first, second))
    monkeypatch.setattr(fast, "PARTS", ())
    out = tmp_path / "gpu.json"
    assert gpu.main(["--device", "cpu", "--small", "--out", str(out)]) == 128 + signum
    rows = json.loads(out.read_text())
    assert [row["name"] for row in rows] == ["machine", "first", "cut short"] and rows[-1]["value"] == signum.name
    assert f"cut short: {signum.name}" in capsys.readouterr().out


def test_a_training_that_stops_at_sigterm_ends_the_run(tmp_path: Path, monkeypatch, handlers):
    def part(found) -> None:
        raise SystemExit(143)  # `Training.stop`

    monkeypatch.setattr(right, "PARTS", (part,))
    out = tmp_path / "gpu.json"
    assert gpu.main(["--device", "cpu", "--small", "--out", str(out)]) == 143
    assert json.loads(out.read_text())[-1]["name"] == "cut short"


@pytest.mark.parametrize(("words", "said"), [
    (["--device", "cpu", "--out", "nowhere/gpu.json"], "there is no folder nowhere"),
    (["--device", "cuda"], "torch finds no GPU here"),
])  # fmt: skip
def test_what_cannot_be_done_is_said_in_a_sentence(capsys, monkeypatch, words, said):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit) as end:
        gpu.main(words)
    assert end.value.code == 2 and said in capsys.readouterr().err


def test_a_box_without_a_compiler_is_told_what_triton_asks_for(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "install gcc, or name one in CC" in capsys.readouterr().err
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"include": str(tmp_path)})
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "python3-dev" in capsys.readouterr().err
