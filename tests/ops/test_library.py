"""Building the kernels, and doing without."""

from __future__ import annotations

import shutil

import pytest
import torch

from k2core import ops
from k2core.machine import device
from k2core.ops import backend, reference
from k2core.ops.cpu import build as module
from k2core.ops.cpu.build import library
from k2core.recipe import RecipeError


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """As in a new process, with nothing built."""
    monkeypatch.setattr(module, "BUILT", tmp_path / "built")
    library.cache_clear()
    yield tmp_path / "built"
    library.cache_clear()


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_kernels_are_built_once_and_again_when_a_source_changes(fresh, monkeypatch, tmp_path):
    assert library() is not None
    (built,) = fresh.iterdir()
    before = built.stat().st_mtime_ns
    library.cache_clear()
    assert library() is not None
    assert [file.stat().st_mtime_ns for file in fresh.iterdir()] == [before]
    sources = tmp_path / "sources"
    shutil.copytree(module.FOLDER, sources)
    (sources / "swiglu.c").write_text((sources / "swiglu.c").read_text() + "\n")
    monkeypatch.setattr(module, "FOLDER", sources)
    library.cache_clear()
    assert library() is not None
    assert len(list(fresh.iterdir())) == 2


@pytest.mark.parametrize("compiler", ["no-such-compiler", "false"])
def test_without_a_compiler_everything_runs_and_says_so(fresh, monkeypatch, caplog, compiler):
    monkeypatch.setenv("CC", compiler)
    x, weight = torch.ones(4, 3), torch.rand(2, 3)
    assert torch.equal(ops.linear(x, weight), torch.nn.functional.linear(x, weight))
    assert backend.implementation("linear", x, weight) is reference.linear
    assert caplog.text.count(f"could not be built with the C compiler '{compiler}' (set CC") == 1


def test_a_recipe_that_insists_on_them_is_told_why_they_are_not_there(fresh, monkeypatch):
    monkeypatch.setenv("CC", "no-such-compiler")
    monkeypatch.setattr(device, "backend", "cpu")
    with pytest.raises(RecipeError, match=r"compute.backend is cpu, but .* 'no-such-compiler': install GCC"):
        ops.swiglu(torch.ones(1, 2))


def test_a_source_that_does_not_compile_shows_the_compilers_words(fresh, monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(module, "FOLDER", tmp_path)
    (tmp_path / "broken.c").write_text("int f( {")
    assert library() is None
    assert "broken.c:1" in caplog.text


def test_a_folder_that_cannot_be_written_is_no_error(fresh, caplog):
    fresh.write_text("not a folder")
    assert library() is None
    assert str(fresh) in caplog.text
